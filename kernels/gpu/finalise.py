"""From a row's lanes to its statistics: Triton kernel `_finalise`."""

# mypy: disable-error-code="assignment, misc"
# (tuples that grow in jitted code)

from __future__ import annotations

import triton
import triton.language as tl

from ssd_probe.kernels.gpu.candidates import _keep, _rank_keys, _tally, _unusual
from ssd_probe.kernels.gpu.close import _close, _moved, _moved_one
from ssd_probe.kernels.gpu.lanes import _choose, _unread
from ssd_probe.kernels.gpu.order import INT_MAX, _empty, _index, _places, _value
from ssd_probe.kernels.gpu.reread import _collect, _narrow, _survey
from ssd_probe.kernels.gpu.scan import LANES, _lanes, _row, _settle


@triton.jit(do_not_specialize=["stride", "size", "steps", "segments"])
def _finalise(logits, stride, size, steps, segments, inverse_t, scratch, fields, valid,
              top_logits, top_ids, K: tl.constexpr, KP: tl.constexpr, S: tl.constexpr,
              E: tl.constexpr, U: tl.constexpr, W: tl.constexpr,
              ALIGNED: tl.constexpr):  # fmt: skip
    """One row from its lanes, by one warp of W threads: select, read these lanes again, close."""
    LIST: tl.constexpr = 2 * KP
    D: tl.constexpr = 0 if E == 4 else (16 if logits.dtype.element_ty == tl.bfloat16 else 13)
    row_id = tl.program_id(0).to(tl.int64)
    row = _row(logits, stride, E)
    lanes = segments * LANES
    values, groups = _lanes(scratch, lanes, 3 + len(inverse_t))
    chosen = scratch + tl.num_programs(0).to(tl.int64) * (lanes * (5 + len(inverse_t)))
    chosen = (chosen + row_id * (7 * KP)).to(tl.pointer_type(tl.int32), bitcast=True)
    found = chosen + KP
    ranked = (found + LIST).to(tl.pointer_type(tl.int64), bitcast=True)

    # K to KP lanes, those that come first (or all).
    cut, last, held, high, a_tops = _choose(values, groups, lanes, steps, chosen, K, KP, S, D)
    tl.debug_barrier()

    # Their groups that reach (cut, last): K or more, but no more than fit; all if K lanes hold
    # nothing. K lanes may hold more: each its best one alone is sure to reach it.
    cut = tl.where(held < K, _empty(D) + 1, cut)
    fits = held <= KP
    held = tl.minimum(held, KP)
    count, b_tops, b = _collect(row, chosen, held, steps, size, cut, last, found, inverse_t, E, D,
                                U, W, LIST, True, ALIGNED)  # fmt: skip
    b, wrong = _settle(b_tops, b, inverse_t)
    if (count >= LIST) | (tl.max(wrong.to(tl.int32)) > 0):
        if count >= LIST:
            of = (row, chosen, held, steps, size)
            cut, last = _narrow(_survey, of, cut, last, high, K, LIST - 1, E, D, U, W, ALIGNED)
        count, b_tops, b = _collect(row, chosen, held, steps, size, cut, last, found, inverse_t,
                                    E, D, U, W, LIST, False, ALIGNED)  # fmt: skip
    tl.debug_barrier()

    # The candidates: the logits of these groups and the V % E last. K to LIST come first. Their
    # places go where the chosen lanes were.
    kept = chosen.to(tl.pointer_type(tl.int16), bitcast=True)
    listed = (row, found, tl.minimum(count, LIST - 1), size)
    cut = tl.where(count < K, _empty(D) + 1, cut)
    live, c_tops, c = _keep(listed, cut, INT_MAX, kept, inverse_t, E, D, W, LIST)
    if live > LIST:
        high = tl.where(size % E > 0, INT_MAX, high)  # the last logits are in no lane
        cut, last = _narrow(_tally, listed, cut, INT_MAX + 0 * cut, high, K, LIST, E, D, U, W,
                            ALIGNED)  # fmt: skip
        live, c_tops, c = _keep(listed, cut, last, kept, inverse_t, E, D, W, LIST)
    tl.debug_barrier()
    fits &= (count < LIST) & (live <= LIST)
    live = tl.minimum(live, LIST)
    keys, beyond = _rank_keys(listed, kept, live, ranked, E, D, LIST, K, KP)
    at = _places(KP)

    # The tail: lanes not taken, the other groups of those taken, the other candidates.
    tail_top = tl.maximum(tl.maximum(tl.max(a_tops), tl.max(b_tops)), tl.max(c_tops))
    tail_top = tl.maximum(tail_top, tl.max(beyond))
    a = _unread(values, lanes, a_tops, inverse_t, 2 if S > 1 else 1)
    a = _moved(a_tops, a, tail_top, inverse_t, W)
    b = _moved(b_tops, b, tail_top, inverse_t, W)
    c = _moved(c_tops, c, tail_top, inverse_t, W)
    d = _moved_one(beyond, tail_top, inverse_t)
    tail = ()
    for i in tl.static_range(3 + len(inverse_t)):
        tail = tail + (tl.sum(a[i] + b[i] + c[i]) + d[i],)
    top = tl.max(tl.where(at == 0, _value(keys), -float("inf")))
    ok = (live > 0) & (tl.abs(tail[0]) < float("inf")) & (_unusual(row, size, E) == 0)
    tail_top = tl.where(tail[0] > 0, tail_top, top)

    # More than fit can not be, but for NaN; if they were, no number would come of it.
    ok &= fits
    tl.store(valid + row_id, ok)
    in_head = ok & (at < live)
    missing = tl.where(ok, -float("inf"), float("nan"))
    writes = at < K
    tl.store(top_logits + row_id * K + at, tl.where(in_head, _value(keys), missing), mask=writes)
    tl.store(top_ids + row_id * K + at, tl.where(in_head, _index(keys), -1), mask=writes)
    _close(fields + row_id, tl.num_programs(0).to(tl.int64), _value(keys), at, live, top, tail_top,
           tail, inverse_t, ok, K)  # fmt: skip
