"""The bundled domain: one-line requests, the Python programs that answer them, and their forks.

A problem is a pipeline of steps over a list of integers. Every step has a *slot* in the program,
and a slot knows all the ways in which the corpus writes it, with their probabilities. So three
things are known by construction and need no estimate: which programs are right, which tokens are
true forks (the slot's continuations differ there; everything else is a lock), and the corpus's
exact next-token distribution at each of them.

One kind of fork matters for correctness: steps with an *edge case* (`max(xs)` fails on an empty
list). The corpus is careless: it writes the careful form `CAREFUL` of the time. Hidden tests hold
empty lists, so the careful form is always right and the popular one always wrong, as at the fork
of the paper's toy (section 5). Style forks (comprehension, map, loop; names; spellings) never
change the result.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ssd_probe.errors import UserError

CAREFUL = 0.15  # share of the corpus that handles an edge case
DIFFICULTIES = ("easy", "medium", "hard")
SPLITS = {  # by the request's hash, in percent
    "corpus": range(0, 60),
    "ssd": range(60, 80),
    "dev": range(80, 90),
    "test": range(90, 100),
}
SIZES = {"corpus": 60_000, "ssd": 4_000, "dev": 150, "test": 240}

NAMES = {"x": 0.5, "n": 0.3, "v": 0.2}
STYLES = {"comprehension": 0.5, "map": 0.3, "loop": 0.2}

# Step name -> (ways to ask for it, ways to write it with their share). K is the step's number.
MAPS: dict[str, tuple[list[str], dict[str, float]]] = {
    "add": (["add K to each", "increase each by K"], {"@ + K": 1}),
    "subtract": (["subtract K from each", "lower each by K"], {"@ - K": 1}),
    "multiply": (["multiply each by K", "scale each by K"], {"@ * K": 1}),
    "square": (["square each"], {"@ * @": 0.6, "@ ** 2": 0.4}),
    "negate": (["negate each", "flip each sign"], {"-@": 1}),
    "absolute": (["take absolute values", "drop the signs"], {"abs(@)": 1}),
    "divide": (["divide each by K rounding down"], {"@ // K": 1}),
    "remainder": (["take each modulo K", "reduce each modulo K"], {"@ % K": 1}),
    "cap": (["cap each at K", "limit each to at most K"], {"min(@, K)": 1}),
    "raise": (["raise each to at least K"], {"max(@, K)": 1}),
}
FILTERS: dict[str, tuple[list[str], dict[str, float]]] = {
    "even": (["keep the even ones", "keep only even ones"], {"@ % 2 == 0": 0.7, "not @ % 2": 0.3}),
    "odd": (["keep the odd ones", "keep only odd ones"], {"@ % 2 == 1": 0.6, "@ % 2": 0.4}),
    "above": (["keep those above K", "keep those greater than K"], {"@ > K": 1}),
    "below": (["keep those below K", "keep those less than K"], {"@ < K": 1}),
    "multiples": (["keep the multiples of K"], {"@ % K == 0": 0.7, "not @ % K": 0.3}),
    "unequal": (["drop those equal to K", "remove every K"], {"@ != K": 1}),
}
WHOLE: dict[str, tuple[list[str], dict[str, float]]] = {
    "ascending": (["sort ascending", "sort from low to high"], {"sorted(xs)": 1}),
    "descending": (
        ["sort descending", "sort from high to low"],
        {"sorted(xs, reverse=True)": 0.6, "sorted(xs)[::-1]": 0.4},
    ),
    "reverse": (["reverse the order"], {"xs[::-1]": 0.6, "list(reversed(xs))": 0.4}),
    "unique": (["remove duplicates", "drop repeats"], {"list(dict.fromkeys(xs))": 1}),
    "take": (["take the first K", "keep only the first K"], {"xs[:K]": 1}),
    "skip": (["skip the first K", "leave out the first K"], {"xs[K:]": 1}),
    "last": (["keep only the last K"], {"xs[-K:]": 1}),
    "alternate": (["take every second one"], {"xs[::2]": 1}),
}
# Edge-case expressions: (what it is called, the popular form, the careful form).
EDGES: dict[str, tuple[str, str, str]] = {
    "max": ("the largest", "max(xs)", "max(xs, default=0)"),
    "min": ("the smallest", "min(xs)", "min(xs, default=0)"),
    "first": ("the first one", "xs[0]", "xs[0] if xs else 0"),
    "final": ("the last one", "xs[-1]", "xs[-1] if xs else 0"),
    "mean": ("the average rounded down", "sum(xs) // len(xs)", "sum(xs) // max(len(xs), 1)"),
}
SAFE_RETURNS: dict[str, tuple[str, dict[str, float]]] = {
    "sum": ("return the sum", {"sum(xs)": 1}),
    "count": ("return how many are left", {"len(xs)": 1}),
    "list": ("return the list", {"xs": 1}),
    "distinct": ("return how many differ", {"len(set(xs))": 1}),
}


@dataclass(frozen=True)
class Slot:
    """One step of a program: every way the corpus writes it, and the share of each."""

    request: str
    alternatives: tuple[tuple[str, float], ...]  # (source lines, share), shares sum to 1
    careful: tuple[str, ...] = ()  # the right ones; empty when all are right


def _fill(forms: dict[str, float], number: int) -> dict[str, float]:
    return {form.replace("K", str(number)): share for form, share in forms.items()}


def _elementwise_slot(request: str, forms: dict[str, float], keep: bool) -> Slot:
    """A map or a filter: style x name x spelling, each an independent choice."""
    lines = []
    for style, style_share in STYLES.items():
        for name, name_share in NAMES.items():
            for form, share in forms.items():
                value = form.replace("@", name)
                body = _elementwise_source(style, name, value, keep)
                lines.append((body, style_share * name_share * share))
    return Slot(request, tuple(lines))


def _elementwise_source(style: str, name: str, value: str, keep: bool) -> str:
    if style == "comprehension":
        inner = f"{name} for {name} in xs if {value}" if keep else f"{value} for {name} in xs"
        return f"\n    xs = [{inner}]"
    if style == "map":
        return f"\n    xs = list({'filter' if keep else 'map'}(lambda {name}: {value}, xs))"
    if keep:
        body = f"\n        if {value}:\n            out.append({name})"
    else:
        body = f"\n        out.append({value})"
    return f"\n    out = []\n    for {name} in xs:{body}\n    xs = out"


def _edge_slot(kind: str, returned: bool) -> Slot:
    """A step with an edge case: as the result, or as a value subtracted from each element."""
    what, popular, careful = EDGES[kind]
    if returned:
        sources = [f"\n    return {form}" for form in (popular, careful)]
        request = f"return {what}"
    else:
        after = "\n    xs = [x - base for x in xs]"
        sources = [f"\n    base = {form}{after}" for form in (popular, careful)]
        request = f"subtract {what} from each"
    shares = (1 - CAREFUL, CAREFUL)
    return Slot(request, tuple(zip(sources, shares, strict=True)), (sources[1],))


def _plain_slot(rng: random.Random) -> Slot:
    """A step without an edge case: map, filter or whole-list operation."""
    family = rng.choices([MAPS, FILTERS, WHOLE], [5, 4, 3])[0]
    name = rng.choice(sorted(family))
    requests, forms = family[name]
    number = rng.randint(2, 9)
    request = rng.choice(requests).replace("K", str(number))
    forms = _fill(forms, number)
    if family is WHOLE:
        return Slot(request, tuple((f"\n    xs = {form}", share) for form, share in forms.items()))
    return _elementwise_slot(request, forms, keep=family is FILTERS)


def _safe_return(rng: random.Random) -> Slot:
    request, forms = SAFE_RETURNS[rng.choice(sorted(SAFE_RETURNS))]
    return Slot(request, tuple((f"\n    return {form}", share) for form, share in forms.items()))


@dataclass(frozen=True)
class Problem:
    """A request, its slots, its hidden tests."""

    slots: tuple[Slot, ...]
    difficulty: str

    @cached_property
    def request(self) -> str:
        return ", then ".join(slot.request for slot in self.slots)

    @cached_property
    def problem_id(self) -> str:
        return f"{self.difficulty}-{self._digest[:10]}"

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(self.request.encode()).hexdigest()

    @property
    def split(self) -> str:
        """By hash of the request: the same problem is never on both sides."""
        bucket = int(self._digest[:8], 16) % 100
        return next(name for name, buckets in SPLITS.items() if bucket in buckets)

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.request}]

    def program(self, rng: random.Random, *, careful: bool | None = None) -> str:
        """One program as the corpus writes it; `careful=True` gives a right one."""
        lines = [HEADER]
        for slot in self.slots:
            pool = [
                (source, share)
                for source, share in slot.alternatives
                if careful is None or not slot.careful or (source in slot.careful) == careful
            ]
            sources, shares = zip(*pool, strict=True)
            lines.append(rng.choices(sources, shares)[0])
        return "".join(lines)

    @cached_property
    def solution(self) -> str:
        """The reference: a careful program."""
        return self.program(random.Random(0), careful=True)

    @cached_property
    def tests(self) -> list[tuple[list[int], object]]:
        """Hidden tests: (input, expected), two of them on an empty or emptied list."""
        rng = random.Random(self._digest)
        inputs: list[list[int]] = [[], [0], [rng.randint(1, 9)]]
        inputs += [[rng.randint(-20, 20) for _ in range(rng.randint(2, 12))] for _ in range(7)]
        inputs += [[rng.randint(-3, 9)] * 2 + [rng.randint(-3, 9) for _ in range(8)]]
        namespace: dict = {}
        exec(self.solution, namespace)  # our own program, not a model's
        return [(xs, namespace["solve"](list(xs))) for xs in inputs]

    @property
    def is_telling(self) -> bool:
        """False where the tests expect nearly the same answer always: wrong programs would pass."""
        return len({str(expected) for _, expected in self.tests}) >= 4


HEADER = "def solve(xs):"


def _random_problem(rng: random.Random, difficulty: str) -> Problem:
    """Easy: 1-2 steps, half of them with one edge case; medium: 3 and one; hard: 4-5 and two."""
    steps, edges = {
        "easy": (rng.choice([1, 2]), rng.choice([0, 1])),
        "medium": (3, 1),
        "hard": (rng.choice([4, 5]), 2),
    }[difficulty]
    middle = [_plain_slot(rng) for _ in range(steps - max(edges - 1, 0))]
    if edges == 2:
        middle.insert(rng.randint(1, len(middle)), _edge_slot(rng.choice(sorted(EDGES)), False))
    last = _edge_slot(rng.choice(sorted(EDGES)), True) if edges else _safe_return(rng)
    return Problem((*middle, last), difficulty)


def stream(split: str, seed: int = 0) -> Iterator[Problem]:
    """Endless distinct problems of one split, difficulties in turn."""
    rng = random.Random(f"{split}/{seed}")
    seen: set[str] = set()
    while True:
        for difficulty in DIFFICULTIES:
            while True:
                problem = _random_problem(rng, difficulty)
                if problem.split == split and problem.request not in seen and problem.is_telling:
                    break
            seen.add(problem.request)
            yield problem


def problems(split: str, count: int | None = None) -> list[Problem]:
    """The first `count` problems of a split (all of its published size when None)."""
    size = SIZES[split] if count is None else count
    source = stream(split)
    return [next(source) for _ in range(size)]


def tiny_problems(split: str, limit: int | None = None) -> list[Problem]:
    """The first `limit` problems of a split of the bundled domain; `UserError` for another name."""
    if split not in SPLITS:
        raise UserError(f"tiny:{split}: no such split; choose one of {', '.join(SPLITS)}")
    size = SIZES[split]
    return problems(split, min(size, limit or size))
