"""The kernels as their launchers compile them, and what each may cost."""

import dataclasses
from collections.abc import Callable
from typing import Any

import triton
from triton.backends.compiler import GPUTarget

from ssd_probe.kernels.gpu import finalise, pair, reread, scan, stats

TARGETS = {
    **{f"sm_{n}": GPUTarget("cuda", n, 32) for n in (80, 90, 100, 103, 120, 75, 89)},
    **{name: GPUTarget("hip", name, 64) for name in ("gfx942", "gfx90a", "gfx950")},
    "gfx1100": GPUTarget("hip", "gfx1100", 32),
}  # fmt: skip
ITEMSIZE = {"fp32": 4, "bf16": 2, "fp16": 2}
VOCABULARY = 151_936


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel as its launcher compiles it for `VOCABULARY`.

    `arguments`, `constants`: of the dtype, types and constexprs by name, where "logits" stands for
    a pointer to it. The main loop is that with exponentials, or with loads if not
    `exponentials`. `rows`: logits it reads for one it counts. `budget`: instructions a logit,
    (CUDA, HIP), for 4-byte and 2-byte logits.
    """

    function: Any
    arguments: Callable[[str], dict[str, Any]]
    constants: Callable[[str], dict[str, Any]]
    budget: dict[int, tuple[float, float]]
    exponentials: bool = True
    rows: int = 1
    streams: bool = True  # its main loop reads the whole row: the model applies
    wide: bool = True  # its loads must be of 128 bits
    register_limit: int | None = None  # on CUDA
    threads: int | None = scan.LANES.value  # None: one warp
    vocabulary: int = VOCABULARY


def _pointers(dtype: str, names: str) -> dict[str, Any]:
    kinds = {"L": f"*{dtype}", "F": "*fp32", "I": "*i32", "J": "*i64", "B": "*i1", "n": "i32"}
    return {name: kinds[kind] for name, kind in (item.split(":") for item in names.split())}


def _lanes(dtype: str) -> dict[str, Any]:
    return {"E": 16 // ITEMSIZE[dtype], "ALIGNED": True}


def _scan(
    temperatures: int, budget: dict[int, tuple[float, float]], aligned: bool = True
) -> Kernel:
    return Kernel(
        scan._scan,
        lambda dtype: {
            **_pointers(dtype, "logits:L stride:n size:n steps:n"),
            "inverse_t": ("fp32",) * temperatures,
            **_pointers(dtype, "scratch:F"),
        },
        lambda dtype: {
            **_lanes(dtype), "U": scan.STEPS, "ALIGNED": aligned,
        },
        budget,
        wide=aligned,
    )  # fmt: skip


def _finalise(top_k: int, vocabulary: int = VOCABULARY) -> Kernel:
    kp = max(16, top_k)
    return Kernel(
        finalise._finalise,
        lambda dtype: {
            **_pointers(dtype, "logits:L stride:n size:n steps:n segments:n"),
            "inverse_t": (),
            **_pointers(dtype, "scratch:F fields:F valid:B top_logits:F top_ids:I"),
        },
        lambda dtype: _lanes(dtype) | {
            "K": top_k, "KP": kp, "U": reread.AGAIN,
            "S": triton.next_power_of_2(scan.geometry(vocabulary, ITEMSIZE[dtype])[2]),
        },
        {4: (18, 18), 2: (15, 15)},
        streams=False,
        register_limit=stats.register_limit(kp),
        threads=None,
        vocabulary=vocabulary,
    )  # fmt: skip


KERNELS = {
    "scan": _scan(0, {4: (9, 10), 2: (9, 8)}),
    "scan, 2 temperatures": _scan(2, {4: (15, 15), 2: (15, 15)}),
    "scan, rows off 16 bytes": _scan(0, {4: (14, 13), 2: (13, 12)}, aligned=False),
    # These read only the lanes that hold the top K, some percent of the row.
    "finalise, K = 64": _finalise(64),
    "finalise, V = 32,768": _finalise(64, 32_768),
    "finalise, K = 128": _finalise(128),
    "rank": Kernel(
        stats._rank,
        lambda dtype: _pointers(dtype, "logits:L stride:n size:n targets:J fields:F")
        | _pointers(dtype, "valid:B top_ids:I target_logprob:F target_rank:I"),
        lambda dtype: _lanes(dtype) | {"K": 64, "KP": 64},
        {4: (9, 9), 2: (9, 10)},
        exponentials=False,
    ),
    "pair": Kernel(
        pair._pair,
        lambda dtype: _pointers(dtype, "x_ptr:L y_ptr:L rows_ptr:F out_ptr:F")
        | _pointers(dtype, "x_stride:n y_stride:n size:n segments:n"),
        lambda dtype: {
            "SEGMENT": pair.SEGMENT, "BLOCK": pair.THREADS * 16 // ITEMSIZE[dtype],
            "ALIGNED": True, "EXACT": ITEMSIZE[dtype] == 2,
        },
        {4: (75, 50), 2: (70, 50)},
        rows=2,
        threads=pair.THREADS,
    ),
}  # fmt: skip
