"""When a run cannot show anything: numbers in, one plain sentence out, or None where all is well.

A sentence says what was seen, against which bound, and what to do. They go into the output, into
the record (`doubts`) and onto the captions of a run's figures.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WARM_UP_SHARE = 0.5  # of the training's steps: beyond it the learning rate is hardly ever high
FEW_STEPS = 50  # of training; the paper's students had 300 to 2,500
MOVED_SHARE = 0.1  # of KL(q || p): a student that lost less of it has hardly been trained
CUT_SHARE = 0.05  # of the samples
FEW_PROBLEMS = 100  # fewer tell no difference in pass@1 below about 0.2, at the worst
SHORTER = 0.8  # of the base's answers, in tokens: below it a student's are called shorter
PROSE = 0.25  # of the probed positions
FORKS = 0.5  # of them; on the bundled domain an eighth
COARSE = 0.05  # a trial that overlooks a difference in pass@1 of that size more than once in five
CHANCE = 0.5  # AUC of a rule that knows nothing
Pair = tuple[float, float]
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
    return cut_of_arms({"": (cut, of)}, kept)


def of_record(record: Mapping[str, Any]) -> list[str]:
    """What a probe's or a run's record says of its model and its texts."""
    told = []
    if record.get("dequantised_from"):
        told.append(
            f"The model was dequantised from {record['dequantised_from'].get('gguf')}: it is not "
            "the model as it was published."
        )
    if record.get("invalid"):
        told.append(f"{record['invalid']} positions are not valid: NaN or infinite logits.")
    if record.get("truncated"):
        told.append(f"{record['truncated']} texts were longer than was asked for, and were cut.")
    return told


def cut_of_arms(cuts: Mapping[str, tuple[int, int]], kept: bool = True) -> str | None:
    """`cut_samples` of several arms, (cut, of) by name, as one."""
    many = {name: pair for name, pair in cuts.items() if pair[1] and pair[0] >= CUT_SHARE * pair[1]}
    if not many:
        return None
    told = [
        f"{cut} of {of} samples{f' of {name}' if name else ''} ({cut / of:.0%})"
        for name, (cut, of) in many.items()
    ]
    share = f"{' and '.join(told)} were cut at their longest"
    student = "the student learns" if len(many) == 1 else "the students learn"
    if not kept:
        return f"{share} and left out: {student} from the shorter answers only"
    return (
        f"{share}: {student} answers that do not end; raise max_new_tokens, or leave them out "
        "(drop_unfinished)"
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
    distance = f"KL(q || p) {before:.4f} -> {after:.4f} nats"
    if after > before:
        where = f"{name} ended farther from its training target than the base was: {distance}"
    else:
        share = f"only {(before - after) / before:.1%} of the way"
        where = f"{name} hardly moved to its training target: {distance}, {share}"
    if outside[0] - outside[1] >= MOVED_SHARE * before:
        inside = before - outside[0], after - outside[1]
        return (
            f"{where}; less of its mass lies outside the support ({outside[0]:.4f} -> "
            f"{outside[1]:.4f}), but within it the shape moved away ({abs(inside[0]):.4f} -> "
            f"{inside[1]:.4f}), as where training sharpens what it should only truncate"
        )
    return f"{where}; what it does or does not do says little of self-distillation"


def few_steps(steps: Mapping[str, int]) -> str | None:
    """Students, name -> steps of training, that had fewer than `FEW_STEPS`."""
    few = {name: count for name, count in steps.items() if count < FEW_STEPS}
    if not few:
        return None
    told = ", ".join(f"{name} {count}" for name, count in few.items())
    return (
        f"few steps of training ({told}; the paper's students had 300 to 2,500): what longer "
        "training does is not seen here"
    )


def unlike_training(name: str, control: str, used: Pair, steps: Pair) -> str | None:
    """An arm and its control that had other numbers of samples or steps.

    used, steps: of the arm, and of the control.
    """
    if used[0] == used[1] and steps[0] == steps[1]:
        return None
    return (
        f"{name} was trained on {used[0]} samples in {steps[0]} steps, {control} on {used[1]} in "
        f"{steps[1]}: what tells them apart may be the amount of training and not its temperature"
    )


def shorter_answers(name: str, tokens: Pair, cut: int, of: int) -> str | None:
    """A student whose answers are shorter than the base's, and that learned from short ones only.

    tokens: mean of an answer, of the base and of the student; cut: samples left out of its training
    because of their length, of so many.
    """
    if not cut or not tokens[1] < SHORTER * tokens[0]:
        return None
    return (
        f"{name}'s answers to the test problems have {tokens[1]:.0f} tokens on average, the base's "
        f"{tokens[0]:.0f}, and {cut} of its {of} samples ({cut / of:.0%}), the longest, were left "
        "out of its training: it may have learned to be brief, and its changes be of where "
        "answers end"
    )


def one_seed(seeds: int) -> str | None:
    """Every student was trained once."""
    if seeds > 1:
        return None
    return (
        "one seed: how far students of one arm differ from training to training is not known, and "
        "no interval here holds it; see `more_seeds`"
    )


def looping(model: str, answers: int, of: int) -> str | None:
    """Answers that repeat themselves up to the length limit."""
    if answers < CUT_SHARE * of or not answers:
        return None
    return (
        f"{answers} of {of} answers of {model} to the test problems repeat themselves up to the "
        "length limit: where such answers are probed, the loops' positions count like any other"
    )


def much_prose(positions: Mapping[str, int]) -> str | None:
    """Probed texts of code and of prose, a quarter of them or more prose.

    positions: by segment, as of `analysis.rates`.
    """
    prose, whole = positions.get("text", 0), sum(positions.values())
    if not positions.get("code") or prose < PROSE * whole:
        return None
    return (
        f"{prose / whole:.0%} of the probed positions are prose around the code: locks and forks "
        "of all positions are of wording, too; the shares by segment tell them apart"
    )


def many_forks(share: float, decoding: str) -> str | None:
    """Labels by which half of the positions or more are forks, as of small models on real text."""
    if share < FORKS:
        return None
    return (
        f"{share:.0%} of the positions are forks by this rule: several tokens would be drawn there "
        f"at {decoding}, which does not say that several are right; `branch` asks that"
    )


def rule_unproven(scores: Iterable[Mapping[str, Any]], decided: int, programs: int) -> str | None:
    """Kinds of which the default rule's labels and the forced tokens' outcomes do not agree.

    scores: rows of `score_against_truth`; decided: positions with an outcome, of so many programs.
    """
    missed = [
        f"{row['label']}s (F1 {row['f1']:.3f}, AUC {row['auc']:.3f})"
        for row in scores
        if row["f1"] == 0 or row["auc"] < CHANCE
    ]
    if not missed:
        return None
    return (
        f"the default rule does not find the outcomes' {', '.join(missed)} better than chance at "
        f"{decided} decided positions of {programs} programs: that its locks and forks are those "
        "of the outcomes is not shown here"
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


def at_the_end(best: Mapping[str, float], tried: Sequence[float]) -> list[str]:
    """Models, name -> best T_eval, whose best is the lowest or the highest of those tried."""
    low, high = min(tried), max(tried)
    if low == high:
        return []
    told = []
    for at, end, beyond in ((low, "lowest", "lower"), (high, "highest", "higher")):
        names = [name for name, t in best.items() if t == at]
        if names:
            told.append(
                f"the best T_eval of {', '.join(names)}, {at:g}, is the {end} that was tried: the "
                f"true best may be {beyond}"
            )
    return told
