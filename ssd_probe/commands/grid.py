"""A sweep's declaration, from YAML: checkpoints x decoding settings on the problems of one source.

    checkpoints:
      base: {model: tiny}
      ssd: {model: work/student, T_train: 1.6, top_k: 20, top_p: 0.8}
      rival: {model: tiny, policy: "min-p(0.1)", decoding: {temperature: [1.0, 1.5]}}
    decoding: {temperature: [0.7, 1.0, 1.3], top_k: 20, top_p: 0.8}
    problems: tiny:test

`decoding` is one mapping or a list of them; each stands for the product of its values. A checkpoint
may have its own, and a policy (`policies`) that the decoding is a part of.
"""

from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from ssd_probe.config_fields import SEEDS
from ssd_probe.core.config import SampleConfig
from ssd_probe.decoding import Decoding
from ssd_probe.engines.choice import serve_all
from ssd_probe.errors import UserError
from ssd_probe.files.declared import MOST, decoding_of, listed, mapping, name_of, whole
from ssd_probe.files.reading import read_yaml
from ssd_probe.problems.prompts import STYLES

_LEAST = {"n": 1, "max_new_tokens": 1, "batch_size": 1, "seed": 0, "limit": 1, "workers": 1}


@dataclass(frozen=True)
class Trained:
    """A checkpoint to evaluate, and how the samples it was trained on were drawn (base: None)."""

    name: str
    model: str
    decoding: Decoding | None = None
    at: tuple[Decoding, ...] = ()  # evaluated at these alone; empty: at the grid's
    policy: str | None = None  # of decode-only rivals, as `policy_of` reads it


@dataclass(frozen=True)
class Grid:
    """What a sweep runs: every checkpoint at every decoding; `k` of pass@k, `timeout` in s."""

    checkpoints: tuple[Trained, ...]
    decodings: tuple[Decoding, ...]
    problems: str
    n: int = 10
    k: tuple[int, ...] = (1,)
    max_new_tokens: int = SampleConfig.max_new_tokens
    batch_size: int = SampleConfig.batch_size
    seed: int = SampleConfig.seed
    limit: int | None = None
    timeout: float = 3.0
    workers: int = 2
    style: str = "auto"  # of the benchmark's prompts, see `sample`
    engine: str = "hf"  # that draws, see `sample`
    engine_args: tuple[str, ...] = ()  # of it, NAME=VALUE

    def cells(self) -> list[tuple[Trained, Decoding]]:
        return [
            (trained, decoding)
            for trained in self.checkpoints
            for decoding in trained.at or self.decodings
        ]

    def sampling(self) -> SampleConfig:
        """The settings of every cell's samples."""
        return SampleConfig(self.n, self.max_new_tokens, self.batch_size, self.seed)


def read_grid(path: Path) -> Grid:
    """The grid of a YAML file. `UserError` "FILE: ..." for anything missing, unknown or illegal.

    Without `k`: pass@1, and pass@5 where n is 5 or more.
    """
    values = read_yaml(path)
    try:
        return _grid(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _grid(values: Any) -> Grid:
    known = {field.name for field in fields(Grid)} - {"decodings"} | {"decoding"}
    values = mapping(values, "the file", known, needed=("checkpoints", "decoding", "problems"))
    if not isinstance(values["problems"], str):
        choices = "humaneval, basics, tiny:SPLIT or a LiveCodeBench .jsonl file"
        raise UserError(f"problems: must be {choices}")
    for key, least in _LEAST.items():
        if key in values and not (key == "limit" and values[key] is None):
            whole(key, values[key], least, SEEDS if key == "seed" else MOST)
    if values.get("style", "auto") not in STYLES:
        raise UserError(f"style: {values['style']!r} must be one of {', '.join(STYLES)}")
    timeout = values.get("timeout", 3.0)
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not number or not 0 < timeout <= 86_400:
        raise UserError(f"timeout: {timeout!r} must be a number of seconds above 0 (at most a day)")
    n = values.get("n", Grid.n)
    ks = listed(values.get("k", [k for k in (1, 5) if k <= n]))
    for k in ks:
        if whole("k", k, 1) > n:
            raise UserError(f"k: pass@{k} needs n of {k} or more, not {n}")
    arguments = tuple(map(str, listed(values.get("engine_args", []))))
    serve_all(str(values.get("engine", Grid.engine)), arguments)
    apart = {"checkpoints", "decoding", "k", "engine_args"}
    settings = {key: values[key] for key in values.keys() - apart} | {"engine_args": arguments}
    return Grid(
        _checkpoints(values["checkpoints"]), _decodings(values["decoding"]), k=ks, **settings
    )


def _checkpoints(values: Any) -> tuple[Trained, ...]:
    found = []
    for name, each in mapping(values, "checkpoints").items():
        where = f"checkpoints.{name}"
        name_of(where, name)
        known = {"model", "T_train", "top_k", "top_p", "policy", "decoding"}
        each = mapping(each, where, known, needed=("model",))
        if "T_train" not in each and each.keys() & {"top_k", "top_p"}:
            raise UserError(
                f"{where}: top_k and top_p need T_train; leave all out for a base model"
            )
        decoding = None
        if "T_train" in each:
            decoding = decoding_of(
                where, each["T_train"], each.get("top_k", 0), each.get("top_p", 1)
            )
        at = _decodings(each["decoding"], f"{where}.decoding") if "decoding" in each else ()
        policy = _policy(where, each["policy"]) if "policy" in each else None
        found.append(Trained(str(name), str(each["model"]), decoding, at, policy))
    return tuple(found)


def _policy(where: str, text: Any) -> str:
    """The policy's text, as it is recorded; `UserError` "WHERE: ..."."""
    from ssd_probe.policies.parsing import policy_of  # torch: only where there is one

    try:
        return str(policy_of(str(text), Decoding()).to_dict()["policy"])
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _decodings(values: Any, where: str = "decoding") -> tuple[Decoding, ...]:
    found: dict[Decoding, None] = {}
    for each in values if isinstance(values, list) and values else [values]:
        each = mapping(each, where, {"temperature", "top_k", "top_p"})
        axes = (each.get("temperature", 1), each.get("top_k", 0), each.get("top_p", 1))
        for setting in product(*map(listed, axes)):
            found[decoding_of(where, *setting)] = None
    if not found:
        raise UserError(f"{where}: no settings; give at least one value for each key")
    return tuple(found)
