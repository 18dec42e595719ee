"""Shards of the vocabulary, merged, are the whole; statistics move and join."""

import socket
import subprocess
import sys

import pytest
import torch

from ssd_probe.errors import UserError
from ssd_probe.kernels import reference
from ssd_probe.kernels.pair import pair_stats
from ssd_probe.kernels.results import PositionStats
from ssd_probe.kernels.shards.stats import shard_stats, target_logits
from ssd_probe.kernels.stats import position_stats
from tests.oracle import EXACT

T = (0.5, 1.6)
NEAR = {  # (absolute, relative)
    "max_logit": (0, 0),
    "log_partition": (2e-6, 2e-6),
    "entropy": (2e-6, 4e-6),
    "varentropy": (2e-5, 2e-5),
    "tail_log_mass": (2e-6, 2e-6),
    "top_logits": (0, 0),
    "log_partition_at": (2e-6, 2e-6),
    "target_logprob": (2e-6, 2e-6),
}


def difference(a, b):
    return torch.where(a == b, 0.0, (a - b).abs())  # -inf agrees with -inf


def hard_rows(size=509):
    """Random, ties, a lock, masked shards, shards with NaN or +inf, all -inf."""
    rows = [3 * torch.randn(size) for _ in range(5)]
    rows += [torch.randn(size).round() for _ in range(3)]
    rows += [torch.randn(size) - 60, torch.zeros(size), torch.linspace(-1e4, 1e4, size)]
    rows[8][400] = 0.0
    masked, nan, inf = torch.full((size,), -torch.inf), torch.randn(size), torch.randn(size)
    masked[450:460] = torch.randn(10)
    nan[3], inf[500] = torch.nan, torch.inf
    mixed = masked.clone()
    mixed[7] = torch.nan  # NaN in one shard, all -inf in others
    return torch.stack([*rows, masked, nan, inf, mixed, torch.full((size,), -torch.inf)])


def merged(logits, cuts, targets=None, **arguments):
    edges = [0, *cuts, logits.shape[1]]
    shards = [logits[:, a:b] for a, b in zip(edges, edges[1:], strict=False)]
    value = None
    if targets is not None:
        found = [target_logits(x, a, targets) for x, a in zip(shards, edges, strict=False)]
        value = torch.stack(found).amax(0)
    parts = [
        shard_stats(x, a, targets=targets, target_logits=value, temperatures=T, **arguments)
        for x, a in zip(shards, edges, strict=False)
    ]
    return PositionStats.merge(parts[::-1], edges[:-1][::-1])


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("top_k", [1, 8, 64])
@pytest.mark.parametrize("cuts", [[], [255], [1, 130, 401], [64, 128, 192, 256, 300, 301, 508]])
def test_merged_shards_are_the_whole(backend, dtype, top_k, cuts):
    logits = hard_rows().to(dtype)
    for targets in [logits.nan_to_num(nan=-9).argmax(-1), torch.randint(509, (len(logits),))]:
        truth = reference.position_stats(logits, top_k=top_k, temperatures=T, targets=targets)
        got = merged(logits, cuts, targets, top_k=top_k, backend=backend)
        for name in EXACT:
            assert torch.equal(getattr(got, name), getattr(truth, name)), name
        for name, (absolute, relative) in NEAR.items():
            want, have = getattr(truth, name), getattr(got, name)
            assert have.dtype == torch.float32
            assert torch.equal(have.isnan(), want.isnan()), name
            error = difference(want, have.double()).nan_to_num()
            budget = absolute + relative * want.abs().nan_to_num(posinf=0, neginf=0)
            assert (error <= budget).all(), (name, error.max())
    assert truth.valid.sum() == 12


def test_a_row_without_a_target_has_none():
    logits, targets = torch.randn(3, 40), torch.tensor([5, -100, 39])
    got = merged(logits, [20], targets, top_k=4)
    whole = position_stats(logits, top_k=4, targets=targets)
    assert torch.equal(got.target_rank, whole.target_rank) and got.target_rank[1] == -1
    assert got.target_logprob.isnan().tolist() == [False, True, False]


def test_a_target_at_minus_infinity_has_its_rank():
    logits = torch.randn(2, 40)
    logits[:, 5:] = -torch.inf
    targets = torch.tensor([30, 6])
    got = merged(logits, [10, 20], targets, top_k=4)
    truth = reference.position_stats(logits, top_k=4, targets=targets)
    assert torch.equal(got.target_rank, truth.target_rank)
    assert (got.target_logprob == -torch.inf).all()


def test_plain_statistics_merge_only_where_nothing_is_in_doubt():
    logits = torch.randn(3, 40)
    halves = [position_stats(logits[:, :20], top_k=4), position_stats(logits[:, 20:], top_k=4)]
    whole = position_stats(logits, top_k=4)
    assert torch.equal(PositionStats.merge(halves, [0, 20]).top_ids, whole.top_ids)
    with pytest.raises(UserError, match="one for each part"):
        PositionStats.merge(halves, [0])
    with pytest.raises(UserError, match="same column"):
        PositionStats.merge(halves, [20, 20])
    with pytest.raises(UserError, match="same arguments"):
        PositionStats.merge([halves[0], position_stats(logits[:, 20:], top_k=5)], [0, 20])
    masked = position_stats(torch.full((3, 20), -torch.inf), top_k=4)
    with pytest.raises(UserError, match="part 1 .*shard_stats"):
        PositionStats.merge([halves[0], masked], [0, 20])
    with pytest.raises(UserError, match="needs both"):
        shard_stats(logits, targets=torch.zeros(3, dtype=torch.long))


RANK = """
import sys, torch, torch.distributed as dist
from ssd_probe.kernels.results import PositionStats
from ssd_probe.kernels.shards.stats import shard_stats, target_logits
from ssd_probe.kernels.stats import position_stats
rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{sys.argv[1]}", rank=rank,
                        world_size=2)
torch.manual_seed(0)
whole, targets = torch.randn(9, 301).round(decimals=1), torch.randint(301, (9,))
first_id = 150 * rank
logits = whole[:, 150:] if rank else whole[:, :150]
value = target_logits(logits, first_id, targets)
dist.all_reduce(value, dist.ReduceOp.MAX)
part = shard_stats(logits, first_id, top_k=8, targets=targets, target_logits=value)
parts = [None] * dist.get_world_size()
dist.all_gather_object(parts, (first_id, part.cpu()))
first_ids, parts = zip(*parts)
got, want = PositionStats.merge(parts, first_ids), position_stats(whole, top_k=8, targets=targets)
for name in ("top_ids", "target_rank", "top_logits"):
    assert torch.equal(getattr(got, name), getattr(want, name)), name
torch.testing.assert_close(got.target_logprob, want.target_logprob)
torch.testing.assert_close(got.entropy, want.entropy)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_ranks_of_torch_distributed_agree():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [subprocess.Popen([sys.executable, "-c", RANK, port, str(i)]) for i in range(2)]
    assert [rank.wait(120) for rank in ranks] == [0, 0]


def test_all_tensors_move():
    """To the device "meta", for want of another: one left behind is seen."""
    from ssd_probe.decoding import PAPER_TRAIN

    x, targets = torch.randn(4, 50), torch.arange(4)
    pair = pair_stats(x, x + 1, top_k=8, targets=targets, temperatures=T)
    want = pair.base.truncated([PAPER_TRAIN])
    moved = pair.to("meta")
    for stats in (moved.base, moved.other):
        tensors = [v for v in vars(stats).values() if isinstance(v, torch.Tensor)]
        assert len(tensors) == 11 and {v.device.type for v in tensors} == {"meta"}
    assert {v.device.type for v in moved.base.truncated([PAPER_TRAIN])} == {"meta"}
    assert moved.kl_base_other.is_meta and moved.other_at_base_top.is_meta and moved.valid.is_meta
    again = pair.cpu()
    assert torch.equal(again.base.truncated([PAPER_TRAIN]).size, want.size)
    assert again.base.temperatures == T


def test_parts_with_and_without_targets_do_not_join():
    x = torch.randn(4, 50)
    parts = [position_stats(x, top_k=4, targets=torch.arange(4)), position_stats(x, top_k=4)]
    for order in (parts, parts[::-1]):
        with pytest.raises(UserError, match="targets"):
            PositionStats.concat(order)
    with pytest.raises(UserError, match="at least one part"):
        PositionStats.collect([], 0)
