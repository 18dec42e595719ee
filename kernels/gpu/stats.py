"""The Triton backend: each logit is read once by `_scan`; then one small program a row.

A row is cut into groups of E = 16 bytes; group g belongs to lane g % LANES of a segment, a thread
each. `_scan` leaves a lane's largest logit, the group where it came first, and online sums. A lane
holds no better logit than its largest, so the top K lie in the K lanes whose (largest, group) come
first. `_finalise`, a warp a row, selects these lanes, reads them again (some percent of the row),
selects the top K, sums the rest directly, and closes the formulas in float64. `_rank` counts the
rank of targets outside the top K. The V % E last logits are in no lane; they are always candidates.

Nothing depends on N or on the row's place: the same bits for every batch size and order. 16-byte
loads need rows that begin on 16 bytes; others are read in narrower loads, with the same result.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssd_probe.kernels.gpu.finalise import _finalise
from ssd_probe.kernels.gpu.launch import launch, warp
from ssd_probe.kernels.gpu.order import _ordered, _value
from ssd_probe.kernels.gpu.reread import AGAIN
from ssd_probe.kernels.gpu.scan import LANES, STEPS, _load, _row, _scan, geometry
from ssd_probe.kernels.results import PositionStats

LEAST_NORMAL = 2.0**-126  # of float32; 1 / T below it may become 0, and 0 * -inf is NaN


@triton.jit(do_not_specialize=["stride", "size"])
def _rank(logits, stride, size, targets, fields, valid, top_ids, target_logprob,
          target_rank, K: tl.constexpr, KP: tl.constexpr, E: tl.constexpr,
          ALIGNED: tl.constexpr):  # fmt: skip
    """The target's log-probability, and its rank: among the top ids, else counted over the row.

    NaN and -1 for a target that is no id of the row, and for the rank in a row that is not valid.
    """
    row_id = tl.program_id(0).to(tl.int64)
    row = _row(logits, stride, E)
    groups = size // E
    wanted = tl.load(targets + row_id)
    known = (wanted >= 0) & (wanted < size)
    target = tl.where(known, wanted, 0).to(tl.int32)
    value = tl.load(row + target).to(tl.float32)
    top = tl.load(fields + row_id).to(tl.float64)
    log_partition = tl.load(fields + tl.num_programs(0) + row_id).to(tl.float64)
    logprob = (value.to(tl.float64) - top - log_partition).to(tl.float32)
    tl.store(target_logprob + row_id, tl.where(known, logprob, float("nan")))

    at = tl.arange(0, KP)
    ids = tl.load(top_ids + row_id * K + at, mask=at < K, other=-1)
    rank = tl.sum(tl.where(ids == target, at + 1, 0))
    ok = tl.load(valid + row_id) & known
    if ok & (rank == 0):
        # Before the target's group a tie counts, after it does not; its own is counted apart.
        home = target // E
        above = _value((_ordered(value).to(tl.int64) + 1) << 32)
        lane = tl.arange(0, LANES)
        column = tl.arange(0, E)
        before = tl.zeros([LANES], tl.int32)
        for start in tl.range(0, groups, LANES, loop_unroll_factor=4):
            group = lane + start
            offset = group[:, None] * E + column[None, :]
            x = _load(row + offset, group < groups, size, E, ALIGNED)
            least = tl.where(group < home, value, above)
            least = tl.where(group < groups, least, float("inf"))
            before += tl.sum((x >= least[:, None]).to(tl.int32), 1)
        rank = tl.sum(before) + 1
        own = home * E + column
        x = tl.load(row + own, mask=own < target, other=float("nan")).to(tl.float32)
        rank += tl.sum((x == value).to(tl.int32))
        last = groups * E + column
        x = tl.load(row + last, mask=last < size, other=float("nan")).to(tl.float32)
        rank += tl.sum((x >= tl.where(groups < home, value, above)).to(tl.int32))
    tl.store(target_rank + row_id, tl.where(ok, rank, -1))


def register_limit(kp: int) -> int:
    """For `_finalise` on CUDA: 12 rows at a time on a multiprocessor, 9 for K > 64."""
    return 168 if kp < 128 else 224


def position_stats(
    logits: Tensor, top_k: int, temperatures: tuple[float, ...], targets: Tensor | None
) -> PositionStats:
    """See `ssd_probe.kernels.stats.position_stats`, which has checked the arguments.

    Reads the logits once, some percent of them twice; the host never waits for the device.
    `backends.choose` has refused a `top_k` above 128.
    """
    logits = logits if logits.stride(-1) == 1 else logits.contiguous()
    n, size = logits.shape
    stride, itemsize = logits.stride(0), logits.element_size()
    per_group, steps, segments = geometry(size, itemsize)
    lanes, kp = segments * LANES.value, max(16, triton.next_power_of_2(top_k))
    inverse_t = tuple(max(1 / t, LEAST_NORMAL) for t in temperatures)
    shared = {
        "E": per_group,
        "ALIGNED": stride * itemsize % 16 == 0 and logits.data_ptr() % 16 == 0,
    }
    threads = warp(logits.device)  # of `_finalise`
    limit = {} if torch.version.hip else {"maxnreg": register_limit(kp)}

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=logits.device)

    scratch = empty(n, (5 + len(temperatures)) * lanes + 7 * kp)  # words: all lanes, then the rest
    fields = empty(5 + len(temperatures), n)
    valid = empty(n, dtype=torch.bool)
    top_logits, top_ids = empty(n, top_k), empty(n, top_k, dtype=torch.int32)
    launch(
        _scan, (n, segments), logits, stride, size, steps, inverse_t, scratch,
        U=STEPS, **shared,
    )  # fmt: skip
    launch(
        _finalise, (n,), logits, stride, size, steps, segments, inverse_t, scratch, fields, valid,
        top_logits, top_ids, K=top_k, KP=kp, S=triton.next_power_of_2(segments),
        U=AGAIN, W=threads, threads=threads, **limit, **shared,
    )  # fmt: skip
    top, log_partition, entropy, varentropy, tail, *_ = fields.unbind()
    stats = PositionStats(
        max_logit=top, log_partition=log_partition, entropy=entropy, varentropy=varentropy,
        tail_log_mass=tail, top_logits=top_logits, top_ids=top_ids, valid=valid,
        temperatures=temperatures, log_partition_at=fields[5:].T,
    )  # fmt: skip
    if targets is not None:
        stats.target_logprob, stats.target_rank = empty(n), empty(n, dtype=torch.int32)
        launch(
            _rank, (n,), logits, stride, size, targets, fields, valid, top_ids,
            stats.target_logprob, stats.target_rank, K=top_k, KP=kp, **shared,
        )  # fmt: skip
    return stats
