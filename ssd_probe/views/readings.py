"""The figures of a comparison read out: what each one shows, in a sentence with its numbers.

What a figure shows is not always what the paper says: a sentence takes its direction from the data.
"""

from collections.abc import Callable

import pandas as pd

from ssd_probe.analysis.compare import ALL, LEAST_POSITIONS
from ssd_probe.analysis.digest import Digest
from ssd_probe.analysis.frames import Missing
from ssd_probe.analysis.labels import FORK, LOCK, OPEN
from ssd_probe.views.signs import on_a_line

RANK = 10  # of Figure 6a's sentence
_SHARE = 0.05  # relative change up to which two numbers are "about as much"


def read_out(found: Digest) -> dict[str, str]:
    """A sentence a figure, by the name of its file (`fig_5`, `loss_terms` ...).

    What has no data says so, and why.
    """
    readers: dict[str, tuple[object, Callable[[Digest], str]]] = {
        "fig_4": (found.text, _text),
        "fig_4_bars": (found.bars, _bars),
        "fig_5": (found.ranked, _ranked),
        "fig_6a": (found.mass, _mass),
        "fig_6b": (found.curves, lambda d: _curve(d, "survivors", "tokens that survive:")),
        "fig_6c": (found.curves, lambda d: _curve(d, "entropy", "nats that are left:")),
        "fig_6d": (found.bins, _bins),
        "fig_8": (found.steps, _steps),
        "loss_terms": (found.loss, _loss),
        "fork_rates": (found.rates, _rates),
    }
    return {
        name: f"No figure: {data.why}." if isinstance(data, Missing) else read(found)
        for name, (data, read) in readers.items()
    }


def read_passes(curves: pd.DataFrame) -> str:
    """Figure 2: each model's best T_eval and how much it loses at its worst. One k."""
    told = []
    for model, rows in curves.groupby("model", sort=False):
        best, worst = (
            rows.loc[at] for at in (rows["estimate"].idxmax(), rows["estimate"].idxmin())
        )
        told.append(
            f"{model} has {best['estimate']:.3f} at T_eval {best['temperature']:g} and "
            f"{worst['estimate']:.3f} at {worst['temperature']:g}"
        )
    row = curves.iloc[0]
    return f"pass@{row['k']} on {row['problems']} dev problems: {'; '.join(told)}."


def read_gains(gains: pd.DataFrame) -> str:
    """Figure 1: what each group gained, and which gains are told from none. One model, one k.

    gains: rows of a run's `differences`: group, k, base, tuned, estimate, low, high, problems.
    """
    ends = gains[["low", "high"]].astype(float)
    sure = gains["group"][(ends["low"] > 0) | (ends["high"] < 0)].tolist()
    told = "; ".join(
        f"{row['group']} {row['base']:.3f} -> {row['tuned']:.3f} ({row['estimate']:+.3f}, "
        f"{row['problems']} problems)"
        for row in gains.to_dict("records")
    )
    which = f"told from no difference: {', '.join(sure)}" if sure else "none is told from none"
    return f"pass@{gains['k'].iloc[0]} on the test problems: {told}. By the 95 % intervals {which}."


def _text(found: Digest) -> str:
    text = found.text
    assert isinstance(text, pd.DataFrame)
    count = text["label"].value_counts()
    kinds = [(LOCK, "locks"), (FORK, "forks"), (OPEN, "open")]
    told = ", ".join(f"{count.get(kind, 0)} {name}" for kind, name in kinds)
    widest = text.loc[text["branching"].idxmax()]
    return (
        f"{len(text)} tokens: {told}; most tokens compete where {_quoted(widest['token'])} stands, "
        f"branching {widest['branching']:.2f}."
    )


def _bars(found: Digest) -> str:
    bars = found.bars
    assert isinstance(bars, pd.DataFrame)
    tails = bars[~bars["head"]].groupby(["label", "temperature"])["probability"].sum()
    cold, hot = bars["temperature"].min(), bars["temperature"].max()
    parts = [
        f"the {kind}'s tail has {tails.get((kind, cold), 0):.2g} of the mass at T={cold:g} and "
        f"{tails.get((kind, hot), 0):.2g} at T={hot:g}"
        for kind in (LOCK, FORK)
    ]
    return f"Heat lets the tail in: {'; '.join(parts)}."


def _ranked(found: Digest) -> str:
    assert isinstance(found.ranked, pd.DataFrame)

    def say(kind: str, rows: pd.DataFrame) -> str:
        sides = [part for _, part in rows.groupby("model", sort=False)]
        names = [side["model"].iloc[0] for side in sides]
        first, second = sides[0].iloc[0], sides[0].iloc[1]
        if kind == FORK:
            values = [_probability(side, second) for side in sides]
            what = (
                f"at the fork, beside {_quoted(first['token'])}, the second token "
                f"{_quoted(second['token'])} has"
            )
        else:
            values = [1 - _probability(side, first) for side in sides]
            what = f"at the lock all tokens but {_quoted(first['token'])} have"
        return f"{what} {_pair(names, values)}"

    return _sentence(_of_each_kind(found.ranked, say))


def _mass(found: Digest) -> str:
    rank = min(RANK, int(found.mass["rank"].max()))
    at = found.mass[found.mass["rank"] == rank]
    values = _pair(list(at["model"]), list(at["miss"]))
    return f"Beyond the first {rank} ranks lies a mean mass of {values}."


def _curve(found: Digest, column: str, words: str) -> str:
    wide = found.curves.pivot(index="temperature", columns="model", values=column)
    base, tuned = names = list(dict.fromkeys(found.curves["model"]))
    at = (wide[tuned] - wide[base]).abs().idxmax()
    values = _pair(names, wide.loc[at, names].tolist())
    return f"The models differ most at T_eval {at:g}: on average {words} {values}."


def _bins(found: Digest) -> str:
    bins = found.bins
    assert isinstance(bins, pd.DataFrame)
    told = []
    first = bins[(bins["model"] == bins["model"].iloc[0]) & (bins["positions"] > 0)]
    many = first[first["positions"] >= LEAST_POSITIONS]
    chosen = [frame["least_mass"].idxmin() for frame in (many,) if len(frame)]
    for at in dict.fromkeys([first["positions"].idxmax(), *chosen]):
        rows = bins[bins["bin"] == first.loc[at, "bin"]]
        values = _pair(rows["model"].tolist(), rows["entropy"].tolist())
        told.append(
            f"where 20 ranks hold {first.loc[at, 'bin']} % of the mass "
            f"({first.loc[at, 'positions']:,} positions): {values}"
        )
    return f"Entropy after truncation, in nats, {'; '.join(told)}."


def _steps(found: Digest) -> str:
    assert isinstance(found.steps, pd.DataFrame)

    def say(kind: str, rows: pd.DataFrame) -> str:
        raw, last = rows[rows["step"] == "raw"], rows[(rows["step"] == "final") & rows["kept"]]
        return (
            f"of the {kind} {_tokens(len(last))}, the likeliest drawn with "
            f"{last['probability'].max():.3f} instead of {raw['probability'].max():.3f}"
        )

    return f"{found.decoding} leaves {_of_each_kind(found.steps, say)}."


def _loss(found: Digest) -> str:
    loss = found.loss
    assert isinstance(loss, pd.DataFrame)
    told = []
    for kind, rows in loss[loss["label"] != ALL].groupby("label", sort=False):
        before, after = (rows["outside"] + rows["inside"]).tolist()
        change = (after - before) / before if before else 0.0
        way, count = "nearer" if change < 0 else "farther", rows["positions"].iloc[0]
        few = f", {count} positions only" if count < LEAST_POSITIONS else ""
        told.append(f"{kind} {before:.4f} -> {after:.4f} nats ({abs(change):.0%} {way}{few})")
    return f"Distance to the training target, KL(q || p): {'; '.join(told)}."


def _rates(found: Digest) -> str:
    told = []
    for way, rows in found.rates.groupby("by", sort=False):
        known = rows[rows["positions"] >= LEAST_POSITIONS]
        if len(known) > 1:
            share = known["fork_rate"]
            most, least = known.loc[share.idxmax()], known.loc[share.idxmin()]
            told.append(
                f"by {way} most at {most['group']} ({most['fork_rate']:.0%}) and fewest at "
                f"{least['group']} ({least['fork_rate']:.0%})"
            )
    if not told:
        return f"No two groups have {LEAST_POSITIONS} positions."
    return f"Share of forks, of groups with {LEAST_POSITIONS} positions: {'; '.join(told)}."


def _of_each_kind(frame: pd.DataFrame, say: Callable[[str, pd.DataFrame], str]) -> str:
    """What is said of the fork's rows, and of the lock's."""
    return "; ".join(say(kind, frame[frame["label"] == kind]) for kind in (FORK, LOCK))


def _probability(side: pd.DataFrame, row: pd.Series) -> float:
    """Of a row's token among a model's ranks in the figure; 0 where it is beyond them."""
    return float(side.loc[side["token_id"] == row["token_id"], "probability"].sum())


def _pair(names: list[str], values: list[float]) -> str:
    """Base and tuned, and which way it went."""
    told = [f"{value:.3g} ({name})" for name, value in zip(names, values, strict=True)]
    before, after = values
    level = abs(after - before) <= _SHARE * abs(before)
    way = "about as much" if level else "more" if after > before else "less"
    return f"{' and '.join(told)}, {way}"


def _tokens(count: int) -> str:
    return f"{count} token{'s' if count != 1 else ''}"


def _quoted(token: str) -> str:
    return f"‘{on_a_line(token)}’"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
