"""The sweep table: one row a checkpoint, evaluation setting, group of problems and k.

Columns: model, T_train, top_k_train, top_p_train (NaN for the base), T_eval, top_k_eval,
top_p_eval, group ("all", "easy", "medium", "hard"), k, estimate (pass@k, a fraction), and, where
known, low, high (its interval) and problems. top-k 0 and top-p 1 are no truncation. Rows with a
`policy` are of decode-only rivals, neither base nor student; without that column there are none.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ssd_probe.analysis.frames import require_columns
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.files.reading import read_jsonl

TRAIN = ["T_train", "top_k_train", "top_p_train"]
EVAL = ["T_eval", "top_k_eval", "top_p_eval"]
KEYS = ["model", *TRAIN, *EVAL, "group", "k"]
_OPTIONAL = ["low", "high", "problems", "policy"]
COLUMNS = [*KEYS, "estimate", *_OPTIONAL]


def read_sweep(path: str | Path) -> pd.DataFrame:
    """A checked sweep table (`check_sweep`) from CSV, Parquet or JSON Lines, by any evaluator.

    Raises UserError, one line that names the file, when it cannot be read or is no sweep table.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder; give the file of its table" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {what}")
    if path.suffix not in (".csv", ".parquet", ".jsonl", ".json"):
        raise UserError(f"{path}: a sweep table is a .csv, .parquet or .jsonl file")
    if not path.stat().st_size:
        raise UserError(f"{path}: the file is empty; a sweep table has a row a cell, group and k")
    try:
        if path.suffix == ".csv":
            # A model may be called NA, 1e3 or True: only an empty field is missing.
            names = {"model": str, "group": str}
            frame = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=names)
        elif path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame = pd.DataFrame(read_jsonl(path))
    except UserError:
        raise
    except (ValueError, OSError) as error:  # pandas' parser and Arrow errors are ValueErrors
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: not readable as {path.suffix[1:]}: {reason}") from error
    return check_sweep(frame, str(path))


def check_sweep(frame: pd.DataFrame, what: str = "the sweep table") -> pd.DataFrame:
    """The sweep table with `COLUMNS` in order and numbers as numbers; others are dropped.

    Raises UserError for: missing columns, no rows, no number where one is needed, a decoding out of
    range or greedy (T = 0 has no effective temperature), an estimate or interval outside 0..1 (say,
    percent), an estimate outside its interval, a row twice, and more than one base model.
    """
    require_columns(frame, [name for name in COLUMNS if name not in _OPTIONAL], what)
    rivals = _rivals(frame)
    table = frame.reindex(columns=COLUMNS).reset_index(drop=True)
    table["policy"] = table["policy"].astype(object).where(rivals, "").astype(str)
    for name in table.columns.drop(["model", "group", "policy"]):
        table[name] = _numbers(table[name], what)
    for name in ("model", "group"):
        _refuse(table, table[name].isna(), name, "missing", what)
        table[name] = table[name].astype(str)
    trained = table["T_train"].notna()
    for name in [*EVAL, "k", "estimate", "top_k_train", "top_p_train"]:
        needed = trained if name in TRAIN else True
        _refuse(table, table[name].isna() & needed, name, "missing", what)
    table.loc[~trained, TRAIN] = np.nan  # so that a base is one setting, whatever stood there
    _refuse(table, (table["k"] < 1) | (table["k"] % 1 != 0), "k", "not a whole number >= 1", what)
    table["k"] = table["k"].astype(int)
    _check_decodings(table, what)
    _check_scores(table, what)
    twice = table.duplicated(KEYS)
    if twice.any():
        raise UserError(f"{what}: row {twice.idxmax() + 1} repeats the settings of another row")
    if rivals.all():
        raise UserError(f"{what}: holds only rows with a policy; a base or a student is needed")
    bases = table.loc[table["T_train"].isna() & ~rivals, "model"].unique()
    if len(bases) > 1:
        names = ", ".join(bases)
        raise UserError(f"{what}: several base models (no T_train): {names}; give one table each")
    return table


def _rivals(frame: pd.DataFrame) -> pd.Series:
    """Which rows have a policy, by their number."""
    policy = frame.get("policy", pd.Series(np.nan, frame.index)).reset_index(drop=True)
    return policy.notna() & (policy != "")


def decoding_of(row: pd.Series, stage: list[str]) -> Decoding:
    """The decoding of a row; `stage` is `TRAIN` or `EVAL`. Raises UserError when out of range."""
    temperature, top_k, top_p = (float(row[name]) for name in stage)
    count: Any = int(top_k) if top_k % 1 == 0 else top_k  # a fraction is Decoding's to refuse
    return Decoding(temperature, count, top_p)


def truncation(top_k: float, top_p: float) -> str:
    """A truncation in words: "no truncation", "top-k 5", "top-k 20, top-p 0.8"."""
    parts = [f"top-k {int(top_k)}"] if top_k else []
    parts += [f"top-p {top_p:.10g}"] if top_p < 1 else []
    return ", ".join(parts) or "no truncation"


def _check_decodings(table: pd.DataFrame, what: str) -> None:
    for stage in (TRAIN, EVAL):
        for place, row in table[stage].dropna().drop_duplicates().iterrows():
            where = f"{what}: row {int(str(place)) + 1}: {stage[0].removeprefix('T_')} decoding"
            try:
                decoding = decoding_of(row, stage)
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
            if decoding.is_greedy:
                raise UserError(f"{where}: {stage[0]} = 0: leave greedy rows out of a sweep")


def _check_scores(table: pd.DataFrame, what: str) -> None:
    for name in ("estimate", "low", "high"):
        outside = (table[name] < 0) | (table[name] > 1)
        _refuse(table, outside, name, "outside 0..1: pass@k is a fraction, not percent", what)
    apart = (table["estimate"] < table["low"] - 1e-9) | (table["estimate"] > table["high"] + 1e-9)
    _refuse(table, apart, "estimate", "outside its own low..high", what)


def _numbers(column: pd.Series, what: str) -> pd.Series:
    """The column as float64; an empty text is missing, as in a CSV."""
    given = column.replace("", np.nan)
    numbers = pd.to_numeric(given, errors="coerce").astype(float)
    bad = (numbers.isna() & given.notna()) | np.isinf(numbers)
    _refuse(column.to_frame(), bad, str(column.name), "not a finite number", what)
    return numbers


def _refuse(table: pd.DataFrame, bad: pd.Series, name: str, problem: str, what: str) -> None:
    """UserError that names the first bad row, counted from 1 without the header."""
    if bad.any():
        value = table.loc[bad.idxmax(), name]
        shown = "" if pd.isna(value) else f" = {value}"
        raise UserError(f"{what}: row {bad.idxmax() + 1}: {name}{shown}: {problem}")
