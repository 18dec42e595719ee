"""When a run cannot show anything: numbers in, one plain sentence out, or None where all is well.

A sentence says what was seen, against which bound, and what to do. They go into the output, into
the record (`doubts`) and onto the captions of a run's figures.
"""

import math
from collections.abc import Iterable, Sequence

WARM_UP_SHARE = 0.5  # of the training's steps: beyond it the learning rate is hardly ever high
MOVED_SHARE = 0.1  # of KL(q || p): a student that lost less of it has hardly been trained
CUT_SHARE = 0.05  # of the samples
FEW_PROBLEMS = 100  # fewer tell no difference in pass@1 below about 0.2, at the worst
COARSE = 0.05  # a trial that overlooks a difference in pass@1 of that size more than once in five
TOLD = 2.80  # standard errors that a true difference must have to be told four times in five


def collect(*sentences: str | None | Iterable[str | None]) -> list[str]:
    """Those that are something to say, each once, in order."""
    flat: list[str | None] = []
    for each in sentences:
        flat += [each] if each is None or isinstance(each, str) else each
    return list(dict.fromkeys(sentence for sentence in flat if sentence))


def short_training(steps: int, warmup: int) -> str | None:
    """Warm-up for half of the steps or more."""
    if warmup < WARM_UP_SHARE * steps:
        return None
    return (
        f"{steps} training steps, {min(warmup, steps)} of them warm-up: the learning rate is hardly"
        " ever at its peak, so the student is nearly untrained; more samples or epochs, or fewer "
        "warm-up steps"
    )


def cut_samples(cut: int, of: int, kept: bool = True) -> str | None:
    """Samples that ended at a limit and not by themselves: 5 % or more of them.

    kept: whether they are trained on.
    """
    if not of or cut < CUT_SHARE * of:
        return None
    share = f"{cut} of {of} samples ({cut / of:.0%}) were cut at their longest"
    if not kept:
        return f"{share} and left out: the student learns from the shorter answers only"
    return (
        f"{share}: the student learns answers that do not end; raise max_new_tokens, or leave them "
        "out (drop_unfinished)"
    )


def not_held_out(trained: int, of: int) -> str | None:
    """Texts to watch whose problems are trained on."""
    if not trained:
        return None
    return (
        f"{trained} of {of} watched texts answer problems that are trained on: what is watched is "
        "then memory, too; watch answers to other problems"
    )


def hardly_moved(
    name: str,
    before: float,
    after: float,
    outside: tuple[float, float] = (math.nan, math.nan),
) -> str | None:
    """KL(q || p) from the training target q, in nats, of the base and of the student.

    outside: -log K of both, the part of it for mass outside the support; where that fell, and the
    sum did not, the student moved, and away from the target's shape within the support.
    """
    if not (math.isfinite(before) and math.isfinite(after)) or before <= 0:
        return None
    if before - after >= MOVED_SHARE * before:
        return None
    change = (before - after) / before
    way = f"only {change:.1%} of it" if change > 0 else "not even nearer"
    if outside[0] - outside[1] >= MOVED_SHARE * before:
        inside = before - outside[0], after - outside[1]
        return (
            f"{name} is hardly nearer to its training target: KL(q || p) {before:.4f} -> "
            f"{after:.4f} nats, {way}; less of its mass lies outside the support ({outside[0]:.4f} "
            f"-> {outside[1]:.4f}), but within it the shape moved away ({abs(inside[0]):.4f} -> "
            f"{inside[1]:.4f}), as when training goes beyond its target: fewer steps, or a lower "
            "learning rate"
        )
    return (
        f"{name} hardly moved to its training target: KL(q || p) {before:.4f} -> {after:.4f} nats, "
        f"{way}; what it does or does not do says little of self-distillation"
    )


def not_its_own(name: str, trained: str, by: str) -> str:
    """A student is compared by another decoding than that of its training samples."""
    return (
        f"{name} was trained on samples at {trained}, which a probe's ranks do not tell; it is "
        f"compared by {by}, which is not its training target"
    )


def resolvable(problems: int) -> float:
    """The least difference in pass@1 that so many problems tell from none, at the worst.

        2.80 sqrt(2 p (1 - p) / problems) at p = 1/2

    with a chance of 80 %, as if both models' scores were independent and each problem all or
    nothing; paired problems and several samples resolve more.
    """
    return TOLD * math.sqrt(0.5 / problems)


def few_problems(what: str, problems: int, low: float, high: float) -> str | None:
    """A trial that would overlook a difference in pass@1 of 0.05, or has fewer than 100 problems.

    low, high: 95 % interval of a paired difference on them, whose half is 1.96 standard errors.
    Without an interval (NaN) the difference that can be told is `resolvable`, and says nothing.
    """
    half = (high - low) / 2
    known = math.isfinite(half) and half > 0
    least = half / 1.96 * TOLD if known else resolvable(problems)
    if problems >= FEW_PROBLEMS and not (known and least > COARSE):
        return None
    how = "by the 95 % interval" if known else "at the worst"
    return (
        f"{problems} {what} problems: a true difference in pass@1 below about {least:.2f} is told "
        f"from none less than four times in five ({how}); see `ssd-probe power`"
    )


def own_difficulty(model: str, problems: str) -> str | None:
    """Problems whose difficulty is by this model's own answers: `basics` and SmolLM2."""
    if model != "smollm2" or problems.partition(":")[0] != "basics":
        return None
    return (
        f"what is easy or hard in {problems} was measured by {model}'s own answers: any other "
        "model, a student too, loses on easy and gains on hard problems by regression to the mean; "
        "read the difference over all problems"
    )


def at_the_end(name: str, best: float, tried: Sequence[float]) -> str | None:
    """The best T_eval is the lowest or the highest of those tried."""
    low, high = min(tried), max(tried)
    if low == high or low < best < high:
        return None
    end, beyond = ("lowest", "lower") if best == low else ("highest", "higher")
    return (
        f"the best T_eval of {name}, {best:g}, is the {end} that was tried: its true best may be "
        f"{beyond}"
    )
