"""A run's declaration, from YAML: what is sampled, trained, tested and probed.

    model: tiny
    prompts: tiny:ssd
    arms:
      ssd: {T_train: 1.6, top_k: 20, top_p: 0.8}
      control: {T_train: 1.0}
      round2: {from: ssd, T_train: 1.6, top_k: 20, top_p: 0.8}
      corpus: {from: text}
    T_eval: [1.0, 1.6]
    dev: {problems: tiny:dev, n: 2}
    test: {problems: tiny:test, n: 5}
    rivals: [two-stage, min-p(0.1)]

An arm is a student by how its training data are made. One sampled at T=1 without truncation, where
the theory expects no change, or trained on the corpus' own text is a control. A rival is the base
drawn from by another policy (`policies`), its T chosen on dev as an arm's is.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from ssd_probe.commands.branching.config import BranchConfig
from ssd_probe.commands.compare import RULES
from ssd_probe.commands.loop.declaration import (
    BASE,
    MAIN,
    ON_DEV,
    PROGRAMS,
    RESERVED,
    TEXT,
    TWO_STAGE,
    Arm,
    Loop,
    Rival,
    Trial,
)
from ssd_probe.config_fields import SEEDS
from ssd_probe.core.config import TrainConfig
from ssd_probe.decoding import Decoding
from ssd_probe.engines.choice import serve_all
from ssd_probe.errors import UserError
from ssd_probe.files.declared import MOST, decoding_of, listed, mapping, name_of, whole
from ssd_probe.files.reading import read_yaml
from ssd_probe.problems.prompts import STYLES

_WHOLE = {  # least value; None is legal where it is the default
    "prompt_limit": 1, "n": 1, "max_new_tokens": 1, "batch_size": 1, "probe_batch_size": 1,
    "text_limit": 1, "top_k_eval": 0, "seed": 0, "workers": 1, "processes": 1,
}  # fmt: skip


def read_loop(path: Path) -> tuple[dict, dict]:
    """A YAML file's mapping, and its `quick` one. `UserError` where it is none."""
    values = mapping(read_yaml(path), str(path))
    quick = values.pop("quick", None)
    return values, {} if quick is None else mapping(quick, f"{path}: quick")


def merged(values: Mapping, other: Mapping) -> dict:
    """`values` with what `other` says; of inner mappings only the keys that it names."""
    whole = dict(values)
    for key, value in other.items():
        inner = key in ("training", "dev", "test", "branch") and isinstance(value, dict)
        old = whole.get(key)
        whole[key] = {**old, **value} if inner and isinstance(old, dict) else value
    return whole


def loop_of(values: Mapping[str, Any]) -> Loop:
    """The declaration of a mapping; `UserError` for anything missing, unknown or illegal."""
    known = {each.name for each in fields(Loop)}
    needed = tuple(each.name for each in fields(Loop)
                   if each.default is MISSING and each.default_factory is MISSING)  # fmt: skip
    given = dict(mapping(dict(values), "the file", known, needed))
    for key in ("model", "prompts", "labels", "engine"):
        if key in given:
            _word(key, given[key])
    for key, least in _WHOLE.items():
        if key in given and not (key.endswith("_limit") and given[key] is None):
            whole(key, given[key], least, SEEDS if key == "seed" else MOST)
    given["arms"] = _arms(given["arms"])
    given["T_eval"] = _temperatures("T_eval", given["T_eval"])
    given["test"] = _trial("test", given["test"])
    if given.get("dev") is not None:
        given["dev"] = _trial("dev", given["dev"])
    given["training"] = _settings("training", TrainConfig, given.get("training"))
    if given.get("branch") is not None:
        given["branch"] = _settings("branch", BranchConfig, given["branch"])
    given["baseline"] = _baseline(given.get("baseline"))
    given["rivals"] = tuple(map(_rival, listed(given.get("rivals") or [])))
    if "texts" in given:
        given["texts"] = tuple(_word("texts", text) for text in listed(given["texts"]))
    if "probed" in given:
        given["probed"] = tuple(map(str, listed(given["probed"])))
    arguments = listed(given.get("engine_args", []))
    given["engine_args"] = tuple(_word("engine_args", each) for each in arguments)
    files = listed(given.get("certificates", []))
    given["certificates"] = tuple(_word("certificates", each) for each in files)
    seeds = listed(given.get("more_seeds", []))
    given["more_seeds"] = tuple(whole("more_seeds", seed, 0, SEEDS) for seed in seeds)
    loop = Loop(**given)
    _check(loop)
    return loop


def _check(loop: Loop) -> None:
    """What one key alone does not show."""
    decoding_of("top_k_eval, top_p_eval", 1.0, loop.top_k_eval, loop.top_p_eval)
    names = {arm.name for arm in loop.arms}
    if not loop.candidates:
        raise UserError("arms: controls only; give one with a T_train other than 1, top_k or top_p")
    if loop.dev is None and (len(loop.T_eval) > 1 or len(loop.candidates) > 1):
        raise UserError(
            "dev: is missing; without it there is one T_eval and one arm beside controls"
        )
    if loop.style not in STYLES:
        raise UserError(f"style: {loop.style!r}; known: {', '.join(STYLES)}")
    serve_all(loop.engine, loop.engine_args)
    if loop.engine != "hf" and loop.processes > 1:
        raise UserError(f"processes: {loop.processes} draw side by side with engine hf only")
    if loop.labels not in RULES:
        raise UserError(f"labels: {loop.labels!r}; known: {', '.join(RULES)}")
    for name in loop.probed:
        if name not in names | {BASE, MAIN}:
            raise UserError(f"probed: no arm {name!r}; known: {', '.join([BASE, MAIN, *names])}")
    if BASE not in loop.probed or MAIN not in loop.probed:
        raise UserError(f"probed: {BASE} and {MAIN} must be among them")
    if type(loop.predict) is not bool:
        raise UserError(f"predict: {loop.predict!r} must be true or false")
    if type(loop.timeout) not in (int, float) or not 0 < loop.timeout <= 86_400:
        raise UserError(f"timeout: {loop.timeout!r} must be a number of seconds above 0")
    if loop.seed in loop.more_seeds:
        raise UserError(f"more_seeds: {loop.seed} is the seed")
    if not loop.texts:
        raise UserError("texts: none; name a source, or a model for its answers")
    for key in ("T_eval", "more_seeds", "texts", "certificates"):
        _once(key, getattr(loop, key))
    _check_names(loop)


def _check_names(loop: Loop) -> None:
    """No two models or probes in one folder."""
    seeds, arms = (loop.seed, *loop.more_seeds), [arm.name for arm in loop.arms]
    students = [loop.student(arm, seed) for seed in seeds for arm in arms]
    _once("arms: with more_seeds", students)
    _once("rivals", [*students, *(rival.name for rival in loop.rivals)])
    probes = [loop.probe_name(name, text) for text in loop.texts for name in (BASE, *arms)]
    _once("texts: the probes' folders", [*probes, *([ON_DEV] if loop.predict else [])])


def _once(key: str, values: Iterable) -> None:
    """`UserError` if a value is there twice."""
    if twice := [value for value, count in Counter(values).items() if count > 1]:
        raise UserError(f"{key}: {twice[0]!r} is there twice; leave one out, or name it otherwise")


def _word(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{key}: {value!r} must be a name (in quotes if need be)")
    return value


def _arms(values: Any) -> tuple[Arm, ...]:
    found: dict[str, Arm] = {}
    for name, each in mapping(values, "arms").items():
        where = f"arms.{name}"
        name = name_of(where, name)
        if name in RESERVED or name.startswith(PROGRAMS):
            raise UserError(f"{where}: the name has a meaning of its own; choose another")
        if name in found:  # 1 and "1"
            raise UserError(f"{where}: is there twice")
        each = mapping(each, where, {"from", "T_train", "top_k", "top_p"})
        source = None if each.get("from") is None else str(each["from"])
        if source == TEXT:
            if len(each) > 1:
                raise UserError(f"{where}: from text nothing is sampled; leave the other keys out")
            found[name] = Arm(name, None)
            continue
        if source is not None and source not in found:
            above = ", ".join([TEXT, *found])
            raise UserError(f"{where}: from {source!r} is no arm above it; known: {above}")
        if "T_train" not in each:
            raise UserError(f"{where}: `T_train` is missing (or `from: {TEXT}`)")
        decoding = decoding_of(where, each["T_train"], each.get("top_k", 0), each.get("top_p", 1))
        found[name] = Arm(name, decoding, source)
    return tuple(found.values())


def _trial(key: str, values: Any) -> Trial:
    given = mapping(values, key, {each.name for each in fields(Trial)}, ("problems", "n"))
    whole(f"{key}.n", given["n"], 1)
    if given.get("limit") is not None:
        whole(f"{key}.limit", given["limit"], 1)
    _word(f"{key}.problems", given["problems"])
    return Trial(**given)


def _settings(key: str, kind: type, values: Any) -> Any:
    """A command's settings, its own where there are none; the seed is the run's."""
    if values in (None, {}):
        return kind()
    given = mapping(values, key, {each.name for each in fields(kind)} - {"seed"})
    try:
        return kind(**given)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def _baseline(values: Any) -> Decoding | None:
    if values is None:
        return None
    given = mapping(values, "baseline", {"T_eval", "top_k", "top_p"}, ("T_eval",))
    return decoding_of("baseline", given["T_eval"], given.get("top_k", 0), given.get("top_p", 1))


def _rival(text: Any) -> Rival:
    from ssd_probe.policies.parsing import policy_of  # torch: only where there is one

    try:
        policy = policy_of(_word("rivals", text), Decoding())
    except UserError as error:
        raise UserError(f"rivals: {str(error).removeprefix('rivals: ')}") from None
    if re.fullmatch(rf"\s*{TWO_STAGE}\s*(\(\s*\))?\s*", text):
        return Rival(TWO_STAGE)
    return Rival(str(policy.to_dict()["policy"]))


def _temperatures(key: str, values: Any) -> tuple[float, ...]:
    found = listed(values)
    if not found or not all(type(value) in (int, float) for value in found):
        raise UserError(f"{key}: {values!r} must be a number or a list of numbers")
    return tuple(decoding_of(key, value, 0, 1).temperature for value in found)
