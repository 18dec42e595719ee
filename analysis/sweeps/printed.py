"""Tables for a page: frames of numbers -> frames of text -> Markdown or LaTeX (booktabs).

    print(to_markdown(comparison_table(compare(base, tuned, labels, decoding))))

Markdown is written here: pandas would need tabulate for it, and that escapes nothing.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ssd_probe.analysis.frames import require_columns
from ssd_probe.analysis.sweeps.table import EVAL, TRAIN, check_sweep, decoding_of

_SCORE = ["estimate", "low", "high"]


def to_markdown(table: pd.DataFrame) -> str:
    """A pipe table, numbers to the right. Bars, backslashes and line breaks are escaped."""
    cells = [[_markdown_cell(x) for x in row] for row in [table.columns, *table.to_numpy()]]
    rule = ["---:" if _is_numeric(table.iloc[:, i]) else "---" for i in range(table.shape[1])]
    return "\n".join("| " + " | ".join(row) + " |" for row in [cells[0], rule, *cells[1:]]) + "\n"


def to_latex(table: pd.DataFrame) -> str:
    r"""A `tabular` for `\usepackage{booktabs}`; `& % $ # _ { } ~ ^ \` are escaped."""
    columns = "".join("r" if _is_numeric(table.iloc[:, i]) else "l" for i in range(table.shape[1]))
    body = table.astype(str).to_latex(index=False, escape=True, column_format=columns)
    return re.sub(r"(?<![\w-])-(?=\.?\d)", r"$-$", body)  # a minus, where text has a hyphen


def write_table(table: pd.DataFrame, stem: str | Path) -> list[Path]:
    """Write `stem`.md and `stem`.tex; returns the paths."""
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    # Not with_suffix: it would cut "table_T0.8" short.
    paths = [stem.with_name(stem.name + end) for end in (".md", ".tex")]
    for path, text in zip(paths, (to_markdown(table), to_latex(table)), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def with_interval(estimate: float, low: float, high: float, sign: bool = False) -> str:
    """E.g. "0.392 [0.37, 0.41]": the ends to the first digit of the half-width (two to six
    decimals), the estimate to one more. Three decimals alone where no interval is known."""
    mark = "+" if sign else ""
    if math.isnan(estimate):
        return "n/a"
    if math.isnan(low) or math.isnan(high):
        return f"{estimate:{mark}z.3f}"
    half = (high - low) / 2
    digits = min(max(2, -math.floor(math.log10(half))), 6) if half > 0 else 3
    ends = f"{low:{mark}z.{digits}f}, {high:{mark}z.{digits}f}"
    return f"{estimate:{mark}z.{digits + 1 if half > 0 else 3}f} [{ends}]"


def changed(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """base, tuned and their difference with low and high, to the digits that these tell."""
    ends = (row["low"], row["high"])
    low, high = ends if all(map(math.isfinite, ends)) else (math.nan, math.nan)
    change = with_interval(row["difference"], low, high, sign=True)
    digits = _decimals_of(change) or 3
    return f"{row['base']:.{digits}f}", f"{row['tuned']:.{digits}f}", change


def comparison_table(comparison: pd.DataFrame) -> pd.DataFrame:
    """`compare`'s frame: a row a label and statistic; "under noise" marks |difference| < floor."""
    needed = ["label", "statistic", "positions", "problems", "base", "tuned"]
    require_columns(comparison, [*needed, "difference", "low", "high"], "the comparison")
    rows = []
    for row in comparison.to_dict("records"):
        base, tuned, change = changed(row)
        floor = row.get("floor")
        in_noise = floor is not None and abs(row["difference"]) < floor
        rows.append(
            {
                "label": row["label"],
                "statistic": str(row["statistic"]).replace("_", " "),
                "base": base,
                "tuned": tuned,
                "difference": change + (" under noise" if in_noise else ""),
                "positions": row["positions"],
                "problems": row["problems"],
            }
        )
    return pd.DataFrame(rows)


def pass_at_k_table(passes: pd.DataFrame) -> pd.DataFrame:
    """`pass_table`'s or `pass_curves`' frame: a row a group (and model, T), a column a k."""
    require_columns(passes, ["group", "k", *_SCORE], "the pass@k table")
    keys = [key for key in ("model", "temperature", "group") if key in passes]
    return _column_a_k(passes, keys).rename(columns={"temperature": "T_eval"})


def difference_table(differences: pd.DataFrame) -> pd.DataFrame:
    """`paired_difference`'s frame: base, tuned and their difference by group and k."""
    require_columns(differences, ["group", "k", "base", "tuned", *_SCORE], "the differences")
    return pd.DataFrame(
        {
            "group": differences["group"],
            "pass@k": [f"pass@{k}" for k in differences["k"]],
            "base": [f"{x:.3f}" for x in differences["base"]],
            "tuned": [f"{x:.3f}" for x in differences["tuned"]],
            "difference": [
                with_interval(estimate, low, high, sign=True)
                for estimate, low, high in differences[_SCORE].itertuples(index=False)
            ],
        }
    )


def rules_table(scores: pd.DataFrame) -> pd.DataFrame:
    """`score_against_truth`'s frame, with a column `rule` when several are stacked."""
    numbers = ["precision", "recall", "f1", "auc"]
    require_columns(scores, ["label", *numbers], "the rules' scores")
    keys = [key for key in ("rule", "label", "truth", "predicted") if key in scores]
    return rounded(scores[[*keys, *numbers]]).rename(columns={"f1": "F1", "auc": "ROC-AUC"})


def rounded(frame: pd.DataFrame, digits: int = 3) -> pd.DataFrame:
    """Any frame with its floats as text of so many decimals, "n/a" where missing."""
    floats = frame.select_dtypes("floating")
    shown = {
        name: ["n/a" if math.isnan(x) else f"{x:z.{digits}f}" for x in floats[name]]
        for name in floats
    }
    return frame.assign(**shown)


def table_2(scores: pd.DataFrame) -> pd.DataFrame:
    """Table 2: two rows a family, base and SSD; pass@k by group in percent, as the paper has it.

    scores: family, model ("base", "ssd"), group, k, estimate (a fraction): `published().table_2`.
    """
    require_columns(scores, ["family", "model", "group", "k", "estimate"], "Table 2")
    columns = list(
        dict.fromkeys(
            f"pass@{k} {group}" for k, group in scores[["k", "group"]].itertuples(index=False)
        )
    )
    rows = []
    for (family, model), part in scores.groupby(["family", "model"], sort=False):
        names = [f"pass@{k} {group}" for k, group in zip(part["k"], part["group"], strict=True)]
        cells = dict(zip(names, (f"{100 * x:.1f}" for x in part["estimate"]), strict=True))
        name = family if model == "base" else "+ SSD"
        rows.append({"model": name} | {column: cells.get(column, "n/a") for column in columns})
    return pd.DataFrame(rows)


def sweep_table(sweep: pd.DataFrame) -> pd.DataFrame:
    """A sweep: a row a checkpoint, decoding and group, a column a k. Raises as `check_sweep`."""
    table = check_sweep(sweep)
    train = [
        "" if pd.isna(row["T_train"]) else str(decoding_of(row, TRAIN))
        for _, row in table.iterrows()
    ]
    evaluation = [
        f"{row['policy']} at {decoding_of(row, EVAL)}" if row["policy"] else
        str(decoding_of(row, EVAL)) for _, row in table.iterrows()
    ]  # fmt: skip
    shown = table.assign(trained=train, evaluated=evaluation)
    return _column_a_k(shown, ["model", "trained", "evaluated", "group"])


def _column_a_k(scores: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """A row for each value of `keys`, in order, and a column of text for each k."""
    cells = scores.assign(
        cell=[with_interval(*row) for row in scores[_SCORE].itertuples(index=False)],
        column=[f"pass@{k}" for k in scores["k"]],
    )
    rows = [
        dict(zip(keys, key, strict=True)) | dict(zip(part["column"], part["cell"], strict=True))
        for key, part in cells.groupby(keys, sort=False)
    ]
    return pd.DataFrame(rows).fillna("n/a")


def _markdown_cell(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _is_numeric(column: pd.Series) -> bool:
    """Whether every cell starts as a number does, so that it is set to the right."""
    return all(re.match(r"[+-]?\.?\d|n/a$", str(value)) for value in column)


def _decimals_of(text: str) -> int:
    return len(text.split(" ")[0].partition(".")[2])
