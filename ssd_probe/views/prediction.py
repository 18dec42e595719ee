"""A prediction as a person reads it: sentences, and tables of its intervals and means."""

import numpy as np
import pandas as pd

from ssd_probe.analysis.labels import FORK, LOCK
from ssd_probe.analysis.prediction.check import Check
from ssd_probe.analysis.prediction.feasible import RESOLUTION
from ssd_probe.analysis.prediction.predict import ALL, BASE, EVAL, TRAIN, Prediction
from ssd_probe.decoding import Decoding
from ssd_probe.policies.effects import Effects
from ssd_probe.views.terminal import WIDTH, Told, filled

STUDENT = "student of "  # how the name of an ideal student begins
BOUND = (
    "Ideal-fit bound: what a student that fits its target exactly would draw. It says nothing of "
    "which tokens are right, and is no forecast of pass@k."
)


def told(found: Prediction, drawn: str, check: Check | None, full: bool = False) -> Told:
    """A prediction for a terminal; drawn: which positions it was made from."""
    tables = [each for cut in _cuts(found) for each in _told_at(found, cut, full)]
    if full:
        head = "Training supports: means; gains in log p(top token) at T=1 (Prop. B.3)"
        tables.insert(0, f"{head}\n{_supports(found.supports)}")
        if check is not None:
            tables.append("\n".join(filled(measured(check, found))))
    hints = [] if full else ["All settings and means: --full, or --json."]
    return Told(sentences(found, drawn, check), tables, hints=hints)


def sentences(found: Prediction, drawn: str, check: Check | None = None) -> list[str]:
    """What the numbers are of and are not; the base and the best student; the error, if known."""
    count = found.positions
    left = f", {found.left_out} left out, not known from the kept ranks" if found.left_out else ""
    lines = [
        f"Of {drawn} ({count[LOCK]:,} locks, {count[FORK]:,} forks by branching at "
        f"{found.rule.decoding}{left}). {BOUND}"
    ]
    rows = found.intervals.to_dict("records")
    base = next(row for row in rows if np.isnan(row["T_train"]))
    best = next(row for row in rows if not np.isnan(row["T_train"]))
    where = "" if len(_cuts(found)) == 1 else f" (evaluated with {_cut_words(*_cut_of(best))})"
    lines.append(f"Of most reach{where}, the {sentence(best, found.span)}")
    lines.append(f"The {sentence(base, found.span)}")
    if check is not None:
        at = check.errors[check.errors["label"].isin([LOCK, FORK])]
        nearer, of = int(at["nearer"].sum()), int(at["of"].sum())
        lines[1:] = [
            " ".join(lines[1:]),
            "Against the trained student the prediction is no farther off than the base at "
            f"{nearer} of {of} means by T_eval, of locks and of forks.",
        ]
    return lines


def _cuts(found: Prediction) -> list[tuple[int, float]]:
    """The evaluations' truncations, as (top_k, top_p)."""
    table = found.cells[EVAL[1:]].drop_duplicates()
    return list(table.itertuples(index=False, name=None))


def _cut_of(row: dict) -> tuple[int, float]:
    return row["top_k_eval"], row["top_p_eval"]


def _cut_words(top_k: int, top_p: float) -> str:
    return str(Decoding(1.0, top_k, top_p)).removeprefix("T=1").removeprefix(", ") or "nothing"


def _told_at(found: Prediction, cut: tuple[int, float], full: bool) -> list[str]:
    """The order by reach at one truncation; in full the means by T_eval before it."""
    intervals, cells = (
        table[(table["top_k_eval"] == cut[0]) & (table["top_p_eval"] == cut[1])]
        for table in (found.intervals, found.cells)
    )
    here = f"Evaluated with {_cut_words(*cut)}"
    order = filled([f"{here}, by reach, the forks' branching at T_high ({found.limits}):"])
    if not full:
        return ["\n".join([*order, _intervals(intervals)])]
    ranked = enumerate(intervals.to_dict("records"), 1)
    order += filled(f"{i}. {sentence(row, found.span)}" for i, row in ranked)
    return [
        f"{here}: mean mass of the top token at locks, by T_eval\n"
        + _by_temperature(cells, LOCK, "top1"),
        "mean branching at forks, by T_eval\n" + _by_temperature(cells, FORK, "branching"),
        "\n".join(order),
    ]


def _intervals(rows: pd.DataFrame) -> str:
    """A line a model: between which T_eval, and at the last by which top-p, both are served."""
    serves = rows["feasible"].astype(bool)
    table = pd.DataFrame({
        "model": rows.apply(model_name, axis=1).str.removeprefix(STUDENT),
        "T_low": rows["T_low"].where(serves), "T_high": rows["T_high"],
        "branching": rows["reach"], "top-p above": rows["top_p_low"],
        "up to": rows["top_p_high"],
    })  # fmt: skip
    return _text(table, 3, index=False)


def sentence(row: dict, span: tuple[float, float]) -> str:
    """One interval in words."""
    who = model_name(row)
    if np.isnan(row["T_high"]):
        return f"{who}: no T_eval from {span[0]:g} on keeps the locks precise."
    top = f"{row['T_high']:.3g}" + (" (the end of the range)" if row["T_high"] >= span[1] else "")
    if not row["feasible"]:
        room = f"no T_eval serves both; locks are precise up to {top}"
    else:
        bottom = f"{row['T_low']:.3g}" if row["T_low"] > span[0] + RESOLUTION else f"{span[0]:g}"
        room = f"T_eval from {bottom} to {top} serves both"
    window = (
        "no top-p serves both there (eq. 40)"
        if np.isnan(row["top_p_low"])
        else f"top-p in ({row['top_p_low']:.3f}, {row['top_p_high']:.3f}] serves both there"
    )
    return f"{who}: {room}; forks branch {row['reach']:.3f} at its end; {window}."


def model_name(row: dict) -> str:
    """The base, or a student by its training setting."""
    values = [row[name] for name in TRAIN]
    if np.isnan(values[0]):
        return "base"
    return f"{STUDENT}{Decoding(values[0], int(values[1]), values[2])}"


def measured(check: Check, found: Prediction) -> list[str]:
    """The trained student's own intervals, and the prediction's error curve by curve."""
    errors = check.errors
    shown = errors[errors["label"].isin([LOCK, FORK])]
    lines = ["The trained student, measured:"]
    lines += [f"{sentence(row, found.span)}" for row in check.measured.to_dict("records")]
    lines += ["Prediction against it, over T_eval:"]
    for row in shown.to_dict("records"):
        none = "nothing changed" if np.isnan(row["relative"]) else f"{row['relative']:.2f} of it"
        lines.append(
            f"{row['label']}s, {row['curve']} at top-k {row['top_k_eval']:g}, top-p "
            f"{row['top_p_eval']:g}: mean error {row['mean_error']:.3g} {row['unit']} (largest "
            f"{row['largest_error']:.3g}); training changed it by {row['change']:.3g}: {none}; "
            f"no farther than the base at {row['nearer']} of {row['of']} T_eval"
        )
    return lines


def told_rivals(
    effects: Effects, untold: dict[str, str], full: bool = False
) -> tuple[list[str], list[str]]:
    """Sentences and tables of base, ideal students and rivals at an equal price at the locks."""
    level = effects.level
    head = (
        f"At the highest T at which locks slip, off their likeliest token, by {effects.slip:.3g} "
        "at most (the base at T=1; 0.001 at least), most entropy (nats) of the forks' heads first. "
        "A student is two-stage decoding of the base (Prop. B.2). Tail: drawn outside of "
        f"{effects.inside}; head: inside; kept: mass at T=1; exact: share of positions; +: the "
        "highest T tried."
    )
    shown = pd.DataFrame({
        "": level["policy"],
        "T": [_highest(t, end) for t, end in zip(level["temperature"], level["end"], strict=True)],
        "lock kept": level["kept_mass"].map("{:.4f}".format),
        "tail": level["lock_tail"].map("{:.4f}".format),
        "fork head": level["head_entropy"].map("{:.3f}".format),
        "whole": level["entropy"].map("{:.3f}".format),
        "tail ": level["fork_tail"].map("{:.3f}".format),
        "exact": level["exact"].map("{:.0%}".format),
    }).replace(["nan", "nan%"], "-")  # fmt: skip
    left = shown[""].str.ljust(shown[""].str.len().max())
    table = _text(shown.assign(**{"": left}), 3, index=False)
    tables = ["\n".join([*filled([head]), table])]
    if full:
        tables += [_rivals_by_temperature(effects, *each) for each in (
            (LOCK, "slip", "mean mass off the likeliest token at locks"),
            (LOCK, "tail", "mean mass outside the support at locks"),
            (FORK, "head_entropy", "mean head entropy at forks, nats"),
        )]  # fmt: skip
    return [_order_in_words(effects), *_not_known(effects, untold)], tables


def _order_in_words(effects: Effects) -> str:
    """The base, the best ideal student and the best rival."""
    known = effects.level.dropna(subset=["head_entropy"])
    student = known["policy"].str.startswith(STUDENT)
    base = known["policy"] == BASE
    firsts = pd.concat([known[student][:1], known[~student & ~base][:1], known[base]])
    told = [f"{row.head_entropy:.3f} with {row.policy} at T={_highest(row.temperature, row.end)}"
            for row in firsts.itertuples()]  # fmt: skip
    return (
        f"Where locks slip by {effects.slip:.3g} at most, the heads of the forks have an entropy "
        f"(nats) of {'; '.join(told) or 'n/a'} (best student, best rival, base)."
    )


def _not_known(effects: Effects, untold: dict[str, str]) -> list[str]:
    lines = [f"{name} is left out: {why}." for name, why in untold.items()]
    part = effects.level[effects.level["exact"] < 1]
    if len(part):
        lines.append(
            f"Not known everywhere from the {effects.ranks} ranks kept, and there as if nothing "
            f"beyond them were drawn: {', '.join(part['policy'])}."
        )
    return lines


def _highest(temperature: float, end: bool) -> str:
    return "none" if np.isnan(temperature) else f"{temperature:.2f}" + ("+" if end else "")


def _rivals_by_temperature(effects: Effects, label: str, column: str, words: str) -> str:
    rows = effects.cells[effects.cells["label"] == label]
    order = list(dict.fromkeys(rows["policy"]))
    table = rows.pivot(index="policy", columns="temperature", values=column)
    table.columns = [f"{t:g}" for t in table.columns]
    return f"{words[0].upper()}{words[1:]}, by T\n{_text(table.loc[order].rename_axis(None), 4)}"


def _supports(supports: pd.DataFrame) -> str:
    names = {
        "support_size": "tokens", "kept_mass": "kept mass", "target_entropy": "H(q)",
        "gain_support": "support", "gain_reshaping": "reshaping",
    }  # fmt: skip
    shown = supports[supports["label"] != ALL]
    index = shown.apply(model_name, axis=1).str.removeprefix(STUDENT)
    table = shown[[*names]].rename(columns=names).assign(setting=index, label=shown["label"])
    return _text(table.set_index(["setting", "label"]), 4)


def _by_temperature(cells: pd.DataFrame, label: str, column: str) -> str:
    shown = cells[cells["label"] == label]
    name = shown.apply(model_name, axis=1).rename("T_eval")
    order = list(dict.fromkeys(name))
    table = shown.assign(model=name).pivot(index="model", columns="T_eval", values=column)
    table.columns = [f"{t:g}" for t in table.columns]
    return _text(table.loc[order].rename_axis(None), 3)


def _text(table: pd.DataFrame, digits: int, index: bool = True) -> str:
    return table.to_string(
        float_format=lambda x: f"{x:.{digits}f}", na_rep="-", index=index, line_width=WIDTH
    )
