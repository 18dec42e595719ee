"""How two models' next-token distributions differ, position by position: result and entry point."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ssd_probe.errors import UserError
from ssd_probe.kernels.backends import choose
from ssd_probe.kernels.stats import PositionStats, position_stats

COMPARISONS = ("kl_base_other", "kl_other_base", "js", "tv")

# The kernels' polynomials in d = log q - log p for |d| <= 1, lowest power first, fitted for the
# least relative error (1.1e-7, 2.1e-8 and 6.9e-8 with these digits in float32):
#   expm1(d) = d + d^2 KL_SERIES(d)            p d^2 KL_SERIES(d) is the element of KL(p||q)
#   p d^2 JS_SERIES(d) = p e^u (u sinh u - cosh u log cosh u), u = d/2    the element of JS
# and beyond, with r = min(p, q) / max(p, q) <= 1/e:
#   JS_FAR(r) = (1 + r) (ln 2 - log(1 + r))
KL_SERIES = (0.5000000099, 0.1666669619, 0.04166651547, 0.008330930508, 0.001389133702,
             0.0002032548052, 2.49607516e-05)  # fmt: skip
JS_SERIES = (0.1249999998, 0.06249999163, 0.01562500387, 0.002604254888, 0.000434024455,
             8.655741757e-05, 1.083258473e-05)  # fmt: skip
JS_FAR = (0.6931472007, -0.3068567753, -0.4998724955, 0.1651355568, -0.0747314214, 0.0258526179)


@dataclasses.dataclass(eq=False)
class PairStats:
    """N pairs of distributions, p = softmax(base) and q = softmax(other); float32, nats.

    `base`, `other`: `PositionStats` of each; `kl_base_other` [N] = KL(p||q), +inf where q lacks a
    token that p has; `kl_other_base` [N] = KL(q||p); `js` [N] = Jensen-Shannon divergence, in
    [0, ln 2]; `tv` [N] = total variation, in [0, 1]; `other_at_base_top` [N, K] = the other's
    logits at `base.top_ids`, -inf where an id is -1; `valid` [N] bool: both are valid. The
    comparisons of a row that is not are NaN.

    KeptMass of the student on the base's support, the loss's three terms and the entropy's split
    into gate, head and tail follow from `base.top_logits` and `other_at_base_top`.
    Source: paper section 3.
    """

    base: PositionStats
    other: PositionStats
    kl_base_other: Tensor
    kl_other_base: Tensor
    js: Tensor
    tv: Tensor
    other_at_base_top: Tensor
    valid: Tensor

    def __len__(self) -> int:
        return len(self.valid)

    def to_columns(self) -> dict[str, np.ndarray]:
        """Arrays of length N by field name; those of `base` and `other` as `base_*`, `other_*`."""
        columns = {f"base_{name}": value for name, value in self.base.to_columns().items()}
        columns |= {f"other_{name}": value for name, value in self.other.to_columns().items()}
        for name in (*COMPARISONS, "other_at_base_top", "valid"):
            columns[name] = getattr(self, name).cpu().numpy()
        return columns


@torch.no_grad()
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

    Both [N, V], float32, bfloat16 or float16, not necessarily the same; the other arguments are
    those of `position_stats` and hold for both. Each logit is read twice: the divergences need
    both log partitions first. `backend`: see `kernels/backends.py`.

    Precision: KL and JS to 6e-7 relative down to KL = 1e-12 (1e-5 where all the difference lies
    in tokens rarer than e^-50); TV likewise, plus 1e-7 absolute (2e-9 from KL = 5e-9 up);
    identical rows give exactly 0.
    Cost on one core at V = 151,936: 0.96 ms a pair of rows, `position_stats` of both being 0.34.
    Errors: `UserError` for a wrong shape, dtype, range or backend.
    Source: design section 2; `kernels/reference.py` has the formulas.
    """
    if base_logits.shape != other_logits.shape:
        shapes = f"{tuple(base_logits.shape)} and {tuple(other_logits.shape)}"
        raise UserError(f"logits of shapes {shapes}: both must be [N, V] alike")
    if base_logits.device != other_logits.device:
        devices = f"{base_logits.device} and {other_logits.device}"
        raise UserError(f"logits on {devices}: both must be on one device")
    backend, _ = choose(backend, base_logits.device, top_k)

    def stats(logits: Tensor) -> PositionStats:
        return position_stats(
            logits, top_k=top_k, temperatures=temperatures, targets=targets,
            vocab_size=vocab_size, backend=backend,
        )  # fmt: skip

    base, other = stats(base_logits), stats(other_logits)
    x, y = base_logits[:, :vocab_size], other_logits[:, :vocab_size]
    valid = base.valid & other.valid
    # Backends import from here, so they are imported when called.
    if backend == "torch":
        from ssd_probe.kernels import eager

        found = eager.divergences(x, y)
    else:
        if backend == "triton":
            from ssd_probe.kernels.pair_gpu import pair_sums
        else:
            from ssd_probe.kernels.pair_cpu import pair_sums
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


def close_pair(sums: Tensor) -> Tensor:
    """[N, 4]: both KL, JS, TV, from a kernel's `sums` [N, 6] float64.

    The kernels see p' = p a and q' = q b, with a and b within 1e-6 of 1 because the log partitions
    are rounded. `sums`: of the elements of KL(p'||q'), KL(q'||p'), JS and |q' - p'|, of q' - p',
    and of q' where it is above p'. Exactly, with r = (sum q' - sum p') / sum p',

        KL(p||q) = sum [p' (e^d - 1 - d)] / sum p' - (r - log(1 + r))

    r is known to 1e-9 or so, being itself a sum of differences; without it KL could not be told
    from r^2 / 2 = 5e-13. For JS the correction is r^2 / 8 + O(r JS). For TV it is r / 2
    times the sum of sign(q' - p') q', but for the tokens whose sign r turns.
    """
    kl, lk, js, tv, r, above = sums.double().T
    back = -r / (1 + r)
    found = [
        kl - (r - r.log1p()),
        lk / (1 + r) - (back - back.log1p()),
        js - r**2 / 8,
        (tv - r * (2 * above - 1)) / 2,
    ]
    most = (torch.inf, torch.inf, math.log(2), 1.0)
    # The one NaN of a valid row is 0 * inf: p too small for float32, q exactly 0.
    return torch.stack(
        [f.nan_to_num(nan=torch.inf, posinf=torch.inf).clamp(0, m)
         for f, m in zip(found, most, strict=True)], -1,
    )  # fmt: skip
