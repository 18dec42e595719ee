"""How two models' next-token distributions differ, position by position: the one entry point."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ssd_probe.errors import UserError
from ssd_probe.kernels.backends import choose, measure
from ssd_probe.kernels.closing import close_pair
from ssd_probe.kernels.cpu.threads import without_lost_threads
from ssd_probe.kernels.results import PairStats, PositionStats
from ssd_probe.kernels.stats import check, check_logits


@without_lost_threads()
def pair_stats(
    base_logits: Tensor,
    other_logits: Tensor,
    *,
    top_k: int = 64,
    temperatures: Sequence[float] = (),
    targets: Tensor | None = None,
    vocab_size: int | None = None,
    backend: str = "auto",
) -> PairStats:
    """Compare each row of `base_logits` with the same row of `other_logits`.

        KL(p||q) = sum p log(p/q)    JS = (KL(p||m) + KL(q||m)) / 2, m = (p + q) / 2
        TV = sum |p - q| / 2

    Both [..., V], float32, bfloat16 or float16, not necessarily the same; the other arguments are
    those of `position_stats` and hold for both. Each logit is read twice: the divergences need
    both log partitions first. `backend`: see `kernels/backends.py`.

    Precision: KL and JS to 6e-7 relative down to KL = 1e-12 (1e-5 where all the difference lies
    in tokens rarer than e^-50); TV likewise, plus 1e-7 absolute (2e-9 from KL = 5e-9 up);
    identical rows give exactly 0. Beyond that: on "cpu" and "triton" a KL may lose what tokens of
    p < e^-87 contribute, and be +inf, where finite logits of the two differ by more than 1e30.
    Cost on one core at V = 151,936: 0.27 ms a pair of rows, `position_stats` of both being 0.09.
    Errors: `UserError` for a wrong kind, shape, dtype, range or backend, and for logits whose
    gradient is recorded.
    Source: design section 2; `kernels/reference.py` has the formulas.
    """
    check_logits("base_logits", base_logits)
    check_logits("other_logits", other_logits)
    if base_logits.shape != other_logits.shape:
        shapes = f"{tuple(base_logits.shape)} and {tuple(other_logits.shape)}"
        raise UserError(f"logits of shapes {shapes}: both must be [..., V] alike")
    if base_logits.device != other_logits.device:
        devices = f"{base_logits.device} and {other_logits.device}"
        raise UserError(f"logits on {devices}: both must be on one device")
    shape, device = base_logits.shape, base_logits.device
    top_k, temperatures, targets = check(shape, top_k, temperatures, targets, vocab_size, device)
    backend, _ = choose(backend, device, top_k)
    size = shape[-1]
    with torch.no_grad():
        return _measure(
            base_logits.reshape(-1, size), other_logits.reshape(-1, size), vocab_size, backend,
            lambda x: measure(x, top_k, temperatures, targets, vocab_size, backend),
        )  # fmt: skip


def _measure(
    base_logits: Tensor,
    other_logits: Tensor,
    vocab_size: int | None,
    backend: str,
    stats: Callable[[Tensor], PositionStats],
) -> PairStats:
    """`pair_stats` of [N, V] by a backend, where `stats` measures one side."""
    base, other = stats(base_logits), stats(other_logits)
    x, y = base_logits[:, :vocab_size], other_logits[:, :vocab_size]
    valid = base.valid & other.valid
    # Imported when called: see `position_stats`.
    if backend == "torch":
        from ssd_probe.kernels import eager

        found = eager.divergences(x, y)
    else:
        if backend == "triton":
            from ssd_probe.kernels.gpu.pair import pair_sums
        else:
            from ssd_probe.kernels.cpu.pair import pair_sums
        found = close_pair(pair_sums(x, y, base, other))
    found = found.float().masked_fill(~valid[:, None], torch.nan)  # [N, 4]
    at_top = y.gather(1, base.top_ids.clamp(min=0).long()).float()
    at_top = at_top.masked_fill(base.top_ids < 0, -torch.inf)
    kl, lk, js, tv = found.unbind(-1)
    return PairStats(
        base=base,
        other=other,
        kl_base_other=kl,
        kl_other_base=lk,
        js=js,
        tv=tv,
        other_at_base_top=at_top.masked_fill(~valid[:, None], torch.nan),
        valid=valid,
    )
