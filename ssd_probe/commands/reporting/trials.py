"""Did it work: pass@k of a run's models, how far they are from each other, how long they answer."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from ssd_probe.commands.loop.declaration import BASE
from ssd_probe.commands.reporting.beside import at_equal_temperatures
from ssd_probe.commands.reporting.comparison import drawn
from ssd_probe.commands.run_folder import RunFolder
from ssd_probe.views.report.content import Block, Prose, Table
from ssd_probe.views.story import beyond_rivals, by_cell, how_chosen, truncations, with_ends

_Key = tuple[str, int]  # group, k
_Rows = dict[_Key, dict[str, Any]]


def worked(summary: dict[str, Any], run: RunFolder) -> list[Block]:
    """pass@k and answer lengths of each model, the paired differences, dev, Figure 2."""
    passes, best = by_cell(summary["pass_at_k"]), summary["best_temperature"]
    keys = list(dict.fromkeys((group, k) for _, group, k in passes))
    keys.sort(key=lambda key: (key[1], key[0] != "all"))
    models = list(dict.fromkeys(model for model, _, _ in passes))
    names = {name: f"{name} (T_eval {best[name]:g})" if name in best else name for name in models}
    columns: dict[str, _Rows] = {names[name]: {} for name in models}
    for row in summary["pass_at_k"]:
        columns[names[row["model"]]][row["group"], row["k"]] = row
    scores = _by_key(keys, columns)
    lengths = _lengths(summary.get("answers", {}), names)
    tested = passes[BASE, "all", 1]["problems"]
    sizes = ", ".join(
        f"{passes[BASE, group, 1]['problems']} {group}"
        for group, k in keys
        if k == 1 and group != "all"
    )
    return [
        Prose(
            f"{tested} held-out problems{f' ({sizes})' if sizes else ''}; each model at "
            f"{how_chosen(summary)} ({truncations(summary)}); 95 % intervals over problems, by "
            "BCa bootstrap, or exact binomial bounds where all problems agree."
        ),
        Table("pass@k, and how long the answers are", pd.concat([scores, lengths]).fillna("")),
        Table("Differences in pass@k, paired by problem", _by_key(keys, _pairs(summary), True)),
        *_rivals(summary, run, keys),
        *at_equal_temperatures(summary, run),
        *drawn(run.out / "figures", tuple(f"fig_2_pass{k}" for k in (1, 5))),
    ]


def _pairs(summary: dict[str, Any]) -> dict[str, _Rows]:
    """Each student less the base, then the main arm less each control."""
    found: dict[str, _Rows] = {}
    for row in summary["differences"]:
        found.setdefault(f"{row['model']} - {BASE}", {})[row["group"], row["k"]] = row
    for row in summary.get("over_controls", []):
        found.setdefault(f"{row['model']} - {row['over']}", {})[row["group"], row["k"]] = row
    return found


def _rivals(summary: dict[str, Any], run: RunFolder, keys: Iterable[_Key]) -> list[Block]:
    """What training adds to what decoding alone does, where rivals were declared."""
    main, tested = summary["main"], summary.get("tested_at", {})
    columns: dict[str, _Rows] = {}
    for (name, group, k), row in beyond_rivals(summary).items():
        columns.setdefault(f"{main} - {name}", {})[group, k] = row
    if not columns:
        return []
    rules = pd.DataFrame(
        [{"rival": name, "policy": policy, "top-k": tested[name]["top_k"],
          "top-p": f"{tested[name]['top_p']:g}"} for name, policy in run.rivals(main).items()]
    )  # fmt: skip
    return [
        Prose("The rivals are the base, not trained, drawn from by other rules."),
        Table("Decode-only rivals", rules),
        Table(f"{main} less each rival, paired by problem", _by_key(keys, columns, True)),
        *drawn(run.out / "figures", tuple(f"rivals_pass{k}" for k in (1, 5))),
    ]


def _by_key(keys: Iterable[_Key], columns: dict[str, _Rows], sign: bool = False) -> pd.DataFrame:
    """A row a group and k; a cell is empty where a column has no row for it."""
    rows = []
    for key in keys:
        cells = {
            name: with_ends(found[key], sign) if key in found else ""
            for name, found in columns.items()
        }
        rows.append({"": f"pass@{key[1]} {key[0]}"} | cells)
    return pd.DataFrame(rows)


def _lengths(answers: dict[str, dict[str, Any]], names: dict[str, str]) -> pd.DataFrame:
    """Mean tokens of an answer and how many were cut, in the columns of the pass@k table."""
    known = {names[name]: row for name, row in answers.items() if name in names}
    if not known:
        return pd.DataFrame()
    mean = {
        name: "n/a" if row["tokens"] is None or row["tokens"] != row["tokens"]
        else f"{row['tokens']:.1f}"
        for name, row in known.items()
    }  # fmt: skip
    cut = {name: f"{row['cut']} of {row['answers']}" for name, row in known.items()}
    return pd.DataFrame([{"": "tokens an answer"} | mean, {"": "cut at their longest"} | cut])
