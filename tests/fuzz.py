"""Random cases against the oracle: `python -m tests.fuzz --backend cpu --cases 20000`.

A case is drawn from its number alone. One that differs is made smaller while it still differs, and
printed as a line to paste. Triton is interpreted where there is no GPU: start it with
TRITON_INTERPRET=1.
"""

import argparse
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from unittest import mock

import torch
from torch import Tensor

from ssd_probe.kernels import reference
from ssd_probe.kernels.head import lm_head_stats
from ssd_probe.kernels.pair import pair_stats
from ssd_probe.kernels.stats import position_stats
from tests import oracle
from tests.interpreter import INTERPRETED, patch_once
from tests.rows import BAD, BASES, DTYPES, MASKED, MASKS, PERIODIC, PERIODS, PLACES, Row, buildable

TARGETS = ("any", "best", "last", "none")
LAYOUTS = ("whole", "padded", "transposed", "every second row")
EDGES = tuple(p * m + d for p in PERIODS for m in (1, 2, 3) for d in (-1, 0, 1))  # sizes
TEMPERATURES = (1e-5, 1e-3, 0.1, 0.7, 1.6, 10.0, 1e4, 1e30)


@dataclass(frozen=True)
class Case:
    """Logits [rows, size], arguments; `other` makes it of `pair_stats`, `width` a head's."""

    rows: tuple[Row, ...]
    size: int
    dtype: int = 0  # of `rows.DTYPES`
    top_k: int = 16
    temperatures: tuple[float, ...] = ()
    targets: tuple[str, ...] = ()
    layout: str = "whole"
    other: tuple[Row, ...] = ()
    other_dtype: int = 0
    width: int = 0
    warp: int = 32  # threads of `_finalise`

    def __repr__(self) -> str:
        given = ((f.name, getattr(self, f.name), f.default) for f in fields(self))
        return f"Case({', '.join(f'{n}={v!r}' for n, v, default in given if v != default)})"


def draw(number: int) -> Case:
    """The case of this number. Interpreted, 128 threads take no longer than 32."""
    r = random.Random(number)
    case = _draw(r)
    return replace(case, warp=r.choice([32, 64, *6 * [128]])) if INTERPRETED else case


def _draw(r: random.Random) -> Case:
    size = r.choice([r.randint(1, 40), r.randint(1, 2000), r.randint(1, 6000), r.choice(EDGES)])
    if r.random() < (0.002 if INTERPRETED else 0.01):
        size = r.choice([32_768, 49_152, 128_256, 151_936])
    size = min(size, 9000) if INTERPRETED else size
    count = r.choice([*7 * [1], 2] if INTERPRETED else [1, 1, 2, 3, 5]) if size < 9000 else 1
    ranks = [1, 2, 16, 20, 64, 100, 128] + ([] if INTERPRETED else [size + 1, 500])
    case = Case(
        rows=tuple(_row(r) for _ in range(count)), size=size, dtype=r.randrange(3),
        top_k=r.choice(ranks), temperatures=tuple(r.sample(TEMPERATURES, r.choice([0, 0, 1, 3]))),
        targets=tuple(r.choice(TARGETS) for _ in range(count)) if r.random() < 0.7 else (),
        layout=r.choice(LAYOUTS),
    )  # fmt: skip
    kind = r.random()
    if kind < 0.35:
        noise = r.choice([0.0, 1e-6, 1e-4, 1e-2, 1.0, 20.0])
        other = (replace(row, noise=noise) if r.random() < 0.6 else _row(r) for row in case.rows)
        return replace(case, other=tuple(other), other_dtype=r.choice([case.dtype, r.randrange(3)]))
    if kind < 0.5:
        return replace(case, width=r.choice([1, 7, 16, 33]), size=min(size, 9000))
    return case


def _row(r: random.Random) -> Row:
    base = r.choice([*BASES, *PERIODIC])
    number = r.randrange(10) if base == "real" else r.choice([*PERIODS, r.randint(2, 3000)])
    row = Row(f"{base} {number}" if base in PERIODIC else base, seed=r.randrange(1000))
    if r.random() < 0.2:
        row = replace(row, scale=r.choice([0.0, 1e-3, 0.1, 10.0, 500.0]))
    if r.random() < 0.15:
        row = replace(row, shift=r.choice([1e4, -1e4, 1e7, -1e10, 1e30]))
    if r.random() < 0.4:
        row = replace(row, mask=r.choice(MASKS), masked=r.choice([*MASKED]))
    if r.random() < 0.15:
        row = replace(row, bad=r.choice([*BAD]), place=r.choice([*PLACES]))
    return row


def faults(case: Case, backend: str, device: str = "cpu") -> list[str]:
    """What differs from the oracle; of "reference" itself, too."""
    if not INTERPRETED:
        return _faults(case, backend, device)
    with mock.patch("ssd_probe.kernels.gpu.stats.warp", lambda _: case.warp):
        return _faults(case, backend, device)


def _faults(case: Case, backend: str, device: str) -> list[str]:
    if not all(buildable(row, DTYPES[case.dtype]) for row in case.rows):
        return []
    if not all(buildable(row, DTYPES[case.other_dtype]) for row in case.other):
        return []
    x = torch.stack([row.build(case.size, DTYPES[case.dtype]) for row in case.rows])
    arguments = {"top_k": case.top_k, "temperatures": case.temperatures}
    if case.targets:
        arguments["targets"] = torch.tensor(
            [_target(z, name) for z, name in zip(x, case.targets, strict=True)]
        )
    if case.width:
        return _head_faults(case, arguments, backend, device)
    names = [repr(row) for row in case.rows]
    z = _laid_out(x, case.layout).to(device)
    if not case.other:
        run = reference.position_stats if backend == "reference" else position_stats
        got = run(z, **arguments, **_on(backend))
        return oracle.differences(got, oracle.position_stats(x, **arguments), names)
    y = torch.stack([row.build(case.size, DTYPES[case.other_dtype]) for row in case.other])
    run = reference.pair_stats if backend == "reference" else pair_stats
    got = run(z, _laid_out(y, case.layout).to(device), **arguments, **_on(backend))
    found = oracle.differences(got, oracle.pair_stats(x, y, **arguments), names)
    gap = (x.double() - y.double()).abs()
    if backend in ("cpu", "triton") and (gap[gap.isfinite()] > oracle.OVERFLOW).any():
        # In float32 p < e^-87 is nothing; to a KL it is something if log q = -1e38.
        found = [line for line in found if not line.startswith("kl")]
    return found


def _on(backend: str) -> dict[str, str]:
    return {} if backend == "reference" else {"backend": backend}


def _target(z: Tensor, name: str) -> int:
    places = {"any": len(z) * 7 // 11, "best": int(z.float().argmax()), "last": len(z) - 1}
    return places.get(name, -100)


def _laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers, otherwise in memory; what is between them is NaN."""
    if layout == "padded":  # rows that begin off 16 bytes
        memory = x.new_full((len(x), x.shape[1] + 3), torch.nan)
        integers = {2: torch.int16, 4: torch.int32}[x.element_size()]
        memory.view(integers)[:, 1:-2] = x.view(integers)  # a NaN keeps its bits
        return memory[:, 1:-2]
    if layout == "transposed":
        return x.T.contiguous().T
    if layout == "every second row":
        return torch.stack([x, torch.full_like(x, torch.nan)], 1)[:, 0]
    return x


def _head_faults(case: Case, arguments: dict, backend: str, device: str) -> list[str]:
    """Small integers: products exact in any order. Half of the weight's rows are equal."""
    if backend == "reference":
        return []
    generator = torch.Generator().manual_seed(case.rows[0].seed)

    def integers(*shape: int) -> Tensor:
        return torch.randint(-3, 4, shape, generator=generator).to(DTYPES[case.dtype])

    hidden, weight = integers(len(case.rows), case.width), integers(case.size, case.width)
    weight[case.size // 3 : case.size * 5 // 6] = weight[case.size // 3].clone()
    bias = integers(case.size) if case.rows[0].seed % 2 else None
    if case.rows[0].bad:
        hidden[0, 0] = torch.nan
    scale = (1.0, 0.25, -2.0)[case.rows[0].seed % 3]
    z = hidden.double() @ weight.double().T + (0 if bias is None else bias.double())
    got = lm_head_stats(
        hidden.to(device), weight.to(device), bias=None if bias is None else bias.to(device),
        scale=scale, backend=backend, **arguments,
    )  # fmt: skip
    return oracle.differences(got, oracle.position_stats(scale * z, **arguments))


def smaller(case: Case) -> Iterator[Case]:
    """Cases that are simpler by one step, boldest first."""
    for i in range(len(case.rows) if len(case.rows) > 1 else 0):
        yield replace(case, **{
            name: getattr(case, name)[:i] + getattr(case, name)[i + 1 :]
            for name in ("rows", "other", "targets")
        })  # fmt: skip
    for i in range(len(case.temperatures)):
        yield replace(case, temperatures=case.temperatures[:i] + case.temperatures[i + 1 :])
    plain = {"targets": (), "layout": "whole", "dtype": 0, "other_dtype": 0}
    for name, value in plain.items():
        if getattr(case, name) != value:
            yield replace(case, **{name: value})
    for name in ("size", "top_k", "width"):
        value = getattr(case, name)
        for less in (1, value // 2, value * 3 // 4, value - 1):
            if 0 < less < value:
                yield replace(case, **{name: less})
    for side in ("rows", "other"):
        for i, row in enumerate(rows := getattr(case, side)):
            for field in fields(Row):
                if getattr(row, field.name) != field.default:
                    simple = replace(row, **{field.name: field.default})
                    yield replace(case, **{side: (*rows[:i], simple, *rows[i + 1 :])})


def shrink(case: Case, backend: str, device: str = "cpu") -> Case:
    """A case that no step makes smaller without its differences going away."""
    for simpler in smaller(case):
        if _differs(simpler, backend, device):
            return shrink(simpler, backend, device)
    return case


def _differs(case: Case, backend: str, device: str) -> bool:
    try:
        return bool(faults(case, backend, device))
    except Exception:  # another fault than the one that is looked for
        return False


def report(number: int, backend: str, device: str = "cpu") -> str:
    """ "" where the case is right; else what is wrong, of which small case, and how to see it."""
    case = draw(number)
    try:
        found = faults(case, backend, device)
    except Exception as error:
        return f"case {number}: {type(error).__name__}: {error}\n    faults({case}, {backend!r})"
    if not found:
        return ""
    case = shrink(case, backend, device)
    lines = "\n".join(faults(case, backend, device))
    paste = repr(case).replace("-inf", "-torch.inf")
    return (
        f'case {number}:\n{lines}\n    python -c "from tests.fuzz import *; '
        f"print(*faults({paste}, '{backend}', '{device}'), sep='\\n')\""
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="cpu", help="reference, torch, cpu or triton")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--most", type=int, default=20, help="stop after so many that differ")
    args = parser.parse_args()
    if INTERPRETED:
        patch_once()
    wrong = 0
    for number in range(args.first, args.first + args.cases):
        if found := report(number, args.backend, args.device):
            print(found, flush=True)
            wrong += 1
        if wrong == args.most:
            break
    print(f"{args.backend}: {number + 1 - args.first} cases, {wrong} differ")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
