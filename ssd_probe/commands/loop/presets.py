"""Runs that have a name: the bundled model, SmolLM2, and the paper's six models.

A paper's preset is its experiment as published. Whatever makes a run another one, a flag or this
machine, is a deviation: `key: paper -> here`, printed, and recorded in run.json.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from ssd_probe.commands.loop.declaration import ENGINE, Loop
from ssd_probe.commands.loop.reading import loop_of, merged, read_loop
from ssd_probe.commands.loop.released import Released, released_of
from ssd_probe.commands.loop.sizes import PROBLEMS
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError

FOLDER = Path(str(files("ssd_probe"))) / "commands" / "loop" / "presets"
OWN = ("tiny", "smollm2")
RELEASED = ("released-4b",)  # published checkpoints, which are probed and not trained
QUICK_SCALE = 0.1  # of what says nothing of `quick` itself

# Hub id; whether it is trained as the instruct models are (2,500 steps, warm-up 250) or as the
# thinking ones (300, 50). Paper, appendix.
PAPER = {
    "llama-3.1-8b-instruct": ("meta-llama/Llama-3.1-8B-Instruct", True),
    "qwen3-4b-instruct": ("Qwen/Qwen3-4B-Instruct-2507", True),
    "qwen3-4b-thinking": ("Qwen/Qwen3-4B-Thinking-2507", False),
    "qwen3-30b-instruct": ("Qwen/Qwen3-30B-A3B-Instruct-2507", True),
    "qwen3-30b-thinking": ("Qwen/Qwen3-30B-A3B-Thinking-2507", False),
    "gpt-oss-20b": ("openai/gpt-oss-20b", False),
}
NAMES = (*OWN, *PAPER)
_OF_THE_MACHINE = {
    *("batch_size", "probe_batch_size", "processes", "workers", "timeout", "certificates"),
    *ENGINE,
}


class Chosen(NamedTuple):
    """A declaration, the name it goes by, and what it changes of the paper's run of that name."""

    loop: Loop
    name: str
    deviations: list[str]


def choose(
    source: str,
    *,
    quick: bool = False,
    scale: float | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Chosen:
    """The run of a preset's name or a YAML file, made small and changed as asked.

    changes: keys as in the file. `scale` multiplies prompts, problems, samples, texts and steps.
    `UserError` for an unknown name, and "FILE: ..." for what is wrong in it.
    """
    values, small = _values(source)
    try:
        as_declared, as_quick = loop_of(values), merged(values, small)
        loop_of(as_quick)  # wrong in it is wrong, asked for or not
        loop = loop_of(merged(as_quick if quick else values, changes or {}))
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    if quick and not small:
        scale = QUICK_SCALE * (1.0 if scale is None else scale)
    if scale is not None and scale != 1:
        loop = _scaled(loop, scale)
    if source not in PAPER:
        return Chosen(loop, source if source in OWN else Path(source).name, [])
    loop, forced = _on_this_machine(loop)
    return Chosen(loop, source, [*deviations(as_declared, loop), *forced])


def released(source: str) -> Released | None:
    """The published pairs of a preset, or of a YAML file with `pairs`; None for a loop."""
    file = FOLDER / f"{source}.yaml" if source in RELEASED else Path(source)
    if source in OWN or source in PAPER or not os.path.isfile(file):
        return None
    values, _ = read_loop(file)
    if "pairs" not in values:
        return None
    try:
        return released_of(values)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def deviations(paper: Loop, here: Loop) -> list[str]:
    """Settings that differ, as `key: paper -> here`; not those that only the machine sees."""
    before, after = (_flat(loop.settings()) for loop in (paper, here))
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key.partition(".")[0] not in _OF_THE_MACHINE
    ]


def _flat(values: Mapping, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return flat


def _values(source: str) -> tuple[dict, dict]:
    if source in OWN:
        return read_loop(FOLDER / f"{source}.yaml")
    if source in PAPER:
        return _paper(source), {}
    if not os.path.exists(source):  # Path.exists raises for a name too long
        raise UserError(
            f"{source}: no such file, and no preset; known: {', '.join((*NAMES, *RELEASED))}"
        )
    return read_loop(Path(source))


def _paper(name: str) -> dict:
    """Tables 3 and 4 and the appendix, as a file would say it."""
    shared, _ = read_loop(FOLDER / "paper.yaml")
    hub, instruct = PAPER[name]
    train, test, base = (Decoding.preset(name, stage) for stage in ("train", "eval", "baseline"))
    length = {"max_steps": 2500, "warmup_steps": 250} if instruct else {
        "max_steps": 300, "warmup_steps": 50}  # fmt: skip
    ssd = {"T_train": train.temperature, "top_k": train.top_k, "top_p": train.top_p}
    return merged(shared, {
        "model": hub,
        "arms": {"ssd": ssd},
        "training": length,
        "T_eval": test.temperature, "top_k_eval": test.top_k, "top_p_eval": test.top_p,
        "baseline": {"T_eval": base.temperature, "top_k": base.top_k, "top_p": base.top_p},
    })  # fmt: skip


def _scaled(loop: Loop, scale: float) -> Loop:
    from ssd_probe.problems.prompts import read_prompts

    if not 0 < scale <= 1:
        raise UserError(f"--scale {scale:g}: must be above 0 and at most 1")

    def count(source: str) -> int:
        try:
            return len(read_prompts(source))
        except UserError:  # it is not here, as a dry run may find; a run says so before it starts
            return PROBLEMS

    return loop.scaled(scale, count)


def _on_this_machine(loop: Loop) -> tuple[Loop, list[str]]:
    """What this machine cannot do as the paper did."""
    import torch

    drawn = "transformers" if loop.engine == "hf" else "the vLLM that SSD_PROBE_VLLM names"
    engine = f"engine: vLLM 0.11 -> {drawn}"
    if torch.cuda.is_available() or not loop.training.bf16:
        return loop, [engine]
    return replace(loop, training=replace(loop.training, bf16=False)), [engine]
