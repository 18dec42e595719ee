"""What a branching says, in numbers, lines and figures."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ssd_probe.analysis.branching.outcomes import UNDECIDED
from ssd_probe.analysis.branching.premise import ALL, by_probability, by_rank
from ssd_probe.analysis.labels import FORK, LOCK, SupportRule
from ssd_probe.analysis.scoring import score_against_truth
from ssd_probe.commands.branching.stage import BRANCHES, POSITIONS, Branched


def labelled(found: Branched) -> pd.DataFrame:
    """The branches with `label` (the default rule's kind of their position) and `weight`."""
    places = found.positions.assign(label=SupportRule().label(found.positions))
    columns = places[["sample_id", "position", "label", "weight", "outcome"]]
    return found.branches.merge(columns, on=["sample_id", "position"], validate="many_to_one")


def summarised(found: Branched, out: Path) -> tuple[dict[str, Any], list[str], list[str]]:
    """The content of --json, the lines for a person, and the files, with figures in `out`/figures.

    `outcomes`: a row a kind (positions, share, which is weighted to all positions of the
    programs); `premise`: `by_probability`; `rule`: `score_against_truth` of the default rule where
    the outcome is decided.
    """
    positions, table = found.positions, labelled(found)
    premise = by_probability(table)
    counted = positions.groupby("outcome")["weight"].agg(["size", "sum"])
    kinds = [
        {
            "outcome": kind,
            "positions": int(counted["size"].get(kind, 0)),
            "share": float(counted["sum"].get(kind, 0) / counted["sum"].sum()),
        }
        for kind in (LOCK, FORK, UNDECIDED)
    ]
    decided = positions[positions["outcome"] != UNDECIDED]
    scores = rule_scores(decided)
    content = {
        "outcomes": kinds,
        "premise": premise.to_dict("records"),
        "rule": scores,
        "tables": [str(out / BRANCHES), str(out / POSITIONS)],
    }
    runs, programs = int(table["runs"].sum()), positions["sample_id"].nunique()
    lines = [
        f"{runs} runs of {len(table)} tokens at {len(positions)} positions of {programs} programs",
        "by outcome, what other tokens did to the program (undecided: too few runs to tell):",
        *(f"  {k['outcome']:<10} {k['positions']:>5} positions, {k['share']:.3f} of all, weighted"
          for k in kinds),
        "P(pass | forced token) by the probability that the model gave it:",
        *map(_line, premise[premise["label"] == ALL].to_dict("records")),
        *(f"rule `support` against the outcomes, {row['label']}s: F1 {row['f1']:.3f}, "
          f"AUC {row['auc']:.3f}"
          for row in scores),
    ]  # fmt: skip
    return content, lines, [*draw(table, out / "figures"), *content["tables"]]


def rule_scores(decided: pd.DataFrame) -> list[dict[str, Any]]:
    """`score_against_truth` of the default rule, a row a kind; none where no outcome is decided."""
    if decided.empty:
        return []
    rule = SupportRule()
    scores = score_against_truth(rule.label(decided), decided["outcome"], rule.score(decided))
    return scores.to_dict("records")


def _line(row: dict[str, Any]) -> str:
    name = f"{row['least']:g} to {row['below']:g}"
    ends = f"[{row['low']:.3f}, {row['high']:.3f}]" if np.isfinite(row["low"]) else ""
    return f"  {name:<14} {row['estimate']:.3f} {ends} {row['tokens']} tokens"


def draw(table: pd.DataFrame, out: Path) -> list[str]:
    """The figures of a labelled table, as lines."""
    from ssd_probe.figures.branching import fig_branch_probability, fig_branch_ranks
    from ssd_probe.figures.saving import Plan, save_all

    premise = by_probability(table)
    ranks = (
        "P(pass | forced token) by the token's rank under the model, at positions of each kind "
        "by the default rule, not by outcome (in brackets how many), weighted to all positions of "
        "the programs; 95 % bootstrap intervals over problems. The last rank is drawn from the "
        "tail."
    )
    probability = (
        "P(pass | forced token) of tokens other than the program's own, by the probability that "
        "the model gave them, from the bin's lower edge; else as the figure by rank."
    )
    plans = [
        Plan("branch_ranks", by_rank(table), lambda data: (fig_branch_ranks(data), ranks)),
        Plan("branch_probability", premise,
             lambda data: (fig_branch_probability(data), probability)),
    ]  # fmt: skip
    return save_all(plans, out).lines()
