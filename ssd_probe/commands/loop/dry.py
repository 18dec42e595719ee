"""`ssd-probe run --dry-run`: every command, the tokens, memory and disk that a run would need."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssd_probe.commands.loop.declaration import BASE, MAIN, ON_DEV, Arm, Loop
from ssd_probe.commands.loop.presets import PAPER, Chosen
from ssd_probe.commands.loop.sizes import (
    HALF,
    PROBLEMS,
    ROW_BYTES,
    SINGLE,
    TRAINED,
    Size,
    amount,
    size_of,
)
from ssd_probe.commands.loop.typed import command, flags
from ssd_probe.commands.run_folder import TINY, RunFolder
from ssd_probe.commands.sampling.certificates import certifies
from ssd_probe.core.config import TrainConfig
from ssd_probe.decoding import Decoding, Policy
from ssd_probe.errors import UserError
from ssd_probe.policies.parsing import own_decoding, policy_of
from ssd_probe.views.doubts import short_training

TOKEN_BYTES = 10  # of a sampled token in a samples file: its id, and its text
T = "\x01"  # stands for a temperature in a command until that is quoted: in no path
KEPT = 2  # resumable checkpoints, each with AdamW's moments


def dry_run(chosen: Chosen, out: Path) -> list[str]:
    """What `run_stage` would do in `out`, line by line.

    Nothing is read but configs, counts and certificates.
    """
    loop, folder = chosen.loop, RunFolder(out, chosen.loop)
    certificates = folder.certificates()
    size, source = size_of(loop.model)
    lines = [f"# {chosen.name}: {loop.model}, {source}"]
    if size:
        lines.append(f"#   {size.parameters:,} parameters, {size.layers} layers of {size.hidden}")
    lines += [f"# other than in the paper: {deviation}" for deviation in chosen.deviations]
    if chosen.name not in PAPER:
        lines.append("# not the paper's: `ssd-probe diff RUN paper` will say how the run differs")
    prompts, _ = _count(loop.prompts, loop.prompt_limit)
    steps = loop.training.steps(prompts * loop.n)
    if doubt := short_training(steps, loop.training.warmup(steps)):
        lines.append(f"# note: {doubt}")
    lines += ["", "# 1. sample and fine-tune", *_students(folder)]
    lines += ["", *_trials(folder, certificates)]
    lines += ["", "# 4. probe and compare", *_probes(folder), *_branch(folder)]
    return [*lines, "", *_needs(loop, size)]


def _decoded(decoding: Decoding, temperature: Any = None) -> list[Any]:
    chosen = decoding.temperature if temperature is None else temperature
    return ["--temperature", chosen, "--top-k", decoding.top_k, "--top-p", decoding.top_p]


def _sampled(loop: Loop, model: str, prompts: str, limit: int | None, n: int) -> list[Any]:
    words: list[Any] = ["sample", "--model", model, "--prompts", prompts]
    words += ["--limit", limit] if limit else []
    words += ["--style", loop.style] if loop.style != "auto" else []
    words += ["--n", n, "--max-new-tokens", loop.max_new_tokens]
    words += ["--engine", loop.engine] if loop.engine != "hf" else []
    words += [word for each in loop.engine_args for word in ("--engine-arg", each)]
    return [*words, "--batch-size", loop.batch_size]


def _certified(loop: Loop, model: str, policy: Policy) -> list[Any]:
    """A student's samples have no certificate: it was not there to be drawn from."""
    named = loop.certificates if model == loop.model else ()
    return [word for p in named if certifies(p, policy) for word in ("--certificate", p)]


def _variable(name: str) -> str:
    """Of a shell: the T_eval that dev chooses for a model."""
    return "${T_" + re.sub(r"[^A-Za-z0-9_]", "_", name) + "}"


def _shell(words: Sequence[Any], temperature: str) -> str:
    """The command with a temperature that may be the shell's, which is in no quotes."""
    parts = (str(word).split(T) for word in words)
    typed = (temperature.join(shlex.quote(p) if p else "" for p in each) for each in parts)
    return " ".join(["ssd-probe", *typed])


def _students(folder: RunFolder) -> list[str]:
    loop, lines = folder.loop, []
    for seed in (loop.seed, *loop.more_seeds):
        arms = loop.arms if seed == loop.seed else loop.repeated(loop.candidates[0].name)
        if seed != loop.seed:
            lines.append(
                f"# seed {seed}: of the arm that dev chooses (here the first), and controls"
            )
        for arm in arms:
            lines += _student(folder, arm, seed)
    return lines


def _student(folder: RunFolder, arm: Arm, seed: int) -> list[str]:
    loop, name = folder.loop, folder.loop.student(arm.name, seed)
    model = folder.checkpoint(loop.student(arm.source, seed) if arm.source else BASE)
    samples = folder.samples(name)
    lines = []
    if arm.decoding is None:
        lines.append(f"# {samples}: the prompts' own solutions, written by the run alone")
    else:
        words = _sampled(loop, model, loop.prompts, loop.prompt_limit, loop.n)
        words += _decoded(arm.decoding) + _certified(loop, model, arm.decoding)
        words += ["--seed", seed, "--out", samples]
        lines.append(command(words))
    recipe = flags(replace(loop.training, seed=seed))
    words = ["train", "--model", model, "--samples", samples, *recipe]
    return [*lines, command([*words, "--out", folder.checkpoint(name)])]


def _trials(folder: RunFolder, certificates: Mapping[Policy, str]) -> list[str]:
    """Each model at each T_eval on dev, then at its own on test."""
    loop, lines = folder.loop, []
    models = [BASE, *(arm.name for arm in loop.arms)]
    rivals = folder.rivals(loop.candidates[0].name)
    if loop.dev:
        lines.append("# 2. choose T_eval and the main arm on dev (the run does it as one sweep)")
        for name in models:
            for decoding in loop.eval_decodings:
                lines += _trial(folder, "dev", name, decoding, f"{decoding.temperature:g}")
        for name, policy in rivals.items():
            for decoding in (own_decoding(policy, each) for each in loop.eval_decodings):
                shown = f"{decoding.temperature:g}"
                lines += _trial(folder, "dev", name, decoding, shown, policy)
        lines += [*_foreseen(folder), ""]
    else:
        lines += [
            "# 2. nothing to choose: one arm and one T_eval are declared, and no dev problems",
            "",
        ]
    lines.append("# 3. test")
    if loop.dev:
        lines.append(f"# {_variable('NAME')}: what dev chose for it; set each before")
        lines += [
            f"# of the base at {policy}, if dev chooses it: --certificate {shlex.quote(path)}"
            for policy, path in certificates.items()
            if policy in loop.eval_decodings or not isinstance(policy, Decoding)
        ]
    for name, arm in _tested(loop).items():
        decoding = loop.eval_decodings[0]
        lines += _trial(folder, "test", name, decoding, _variable(arm) if loop.dev else None)
    for name, policy in rivals.items():
        own = own_decoding(policy, loop.eval_decodings[0])
        lines += _trial(folder, "test", name, own, _variable(name) if loop.dev else None, policy)
    if loop.baseline:
        lines += _trial(folder, "test", BASE, loop.baseline, None)
    return lines


def _foreseen(folder: RunFolder) -> list[str]:
    """The prediction from the base's answers to the dev problems, at its best T_eval."""
    loop, out = folder.loop, folder.out / "probes" / ON_DEV
    if not loop.predict:
        return []
    answers = folder.trial_folder("dev") / f"{BASE}-T{T}.jsonl"
    words: list[Any] = ["probe", "--model", loop.model, "--text", answers]
    words += ["--limit", loop.text_limit] if loop.text_limit else []
    words += ["--batch-size", loop.probe_batch_size, "--out", out]
    trained = [arm.decoding for arm in loop.candidates if arm.decoding]
    asked: list[Any] = ["predict", "--probe", out]
    tried: dict[str, Sequence[float]] = {
        "--t-train": [d.temperature for d in trained],
        "--top-k": [d.top_k for d in trained],
        "--top-p": [d.top_p for d in trained],
        "--t-eval": loop.T_eval,
        "--eval-top-k": [loop.top_k_eval],
        "--eval-top-p": [loop.top_p_eval],
    }
    for flag, values in tried.items():
        asked += [flag, ",".join(f"{value:g}" for value in dict.fromkeys(values))]
    return [_shell(words, _variable(BASE)), command(asked)]


def _branch(folder: RunFolder) -> list[str]:
    loop = folder.loop
    if loop.branch is None:
        return []
    words: list[Any] = ["branch", "--model", loop.model, "--problems", loop.test.problems]
    words += ["--samples", _source(folder, BASE), *flags(replace(loop.branch, seed=loop.seed))]
    return [_shell([*words, "--out", folder.out / "branch"], _variable(BASE))]


def _tested(loop: Loop) -> dict[str, str]:
    """Every model that the test problems are put to, and the arm whose T_eval it has."""
    found = {name: name for name in (BASE, *(arm.name for arm in loop.arms))}
    for seed in loop.more_seeds:
        for arm in loop.repeated(loop.candidates[0].name):
            found[loop.student(arm.name, seed)] = arm.name
    return found


def _trial(
    folder: RunFolder,
    split: str,
    name: str,
    decoding: Decoding,
    temperature: str | None,
    policy: str | None = None,
) -> list[str]:
    loop = folder.loop
    trial = loop.test if split == "test" or loop.dev is None else loop.dev
    shown = f"{decoding.temperature:g}" if temperature is None else temperature
    at = f"{name}-baseline" if decoding == loop.baseline else f"{name}-T{T}"
    stem = folder.trial_folder(split) / at
    samples, verdicts = stem.with_name(at + ".jsonl"), stem.with_name(at + ".json")
    words = _sampled(loop, folder.checkpoint(name), trial.problems, trial.limit, trial.n)
    words += ["--policy", policy] if policy else []
    if not shown.startswith("$"):  # else dev decides which it would be
        drawn = policy_of(policy, decoding)
        words += _certified(loop, folder.checkpoint(name), drawn)
    words += [*_decoded(decoding, T), "--seed", loop.seed, "--out", samples]
    judged = ["evaluate", "--problems", trial.problems, "--samples", samples, "--out", verdicts]
    return [_shell(words, shown), _shell(judged, shown)]


def _probes(folder: RunFolder) -> list[str]:
    loop, lines = folder.loop, []
    main = loop.candidates[0]
    if len(loop.candidates) > 1:
        lines.append(f"# main: the arm that dev chooses, here {main.name}")
    models = list(dict.fromkeys(main.name if name == MAIN else name for name in loop.probed))
    for text in loop.texts:
        source = _source(folder, main.name if text == MAIN else text)
        shown = _variable(main.name if text == MAIN else text)
        limit = ["--limit", loop.text_limit] if loop.text_limit else []
        for name in models:
            words: list[Any] = ["probe", "--model", folder.checkpoint(name), "--text", source]
            words += [*limit, "--batch-size", loop.probe_batch_size]
            lines.append(_shell([*words, "--out", folder.probe(name, text)], shown))
        assert main.decoding is not None
        for name in models[1:]:
            sides = ["--base", folder.probe(BASE, text), "--tuned", folder.probe(name, text)]
            lines.append(command(["compare", *sides, *_decoded(main.decoding)]))
    return lines


def _source(folder: RunFolder, text: str) -> str:
    loop = folder.loop
    if text == BASE or text in {arm.name for arm in loop.arms}:
        at = f"T{T}" if loop.dev else f"T{loop.T_eval[0]:g}"
        if text == BASE and loop.baseline and not loop.dev:
            at = "baseline"
        return str(folder.trial_folder("test") / f"{text}-{at}.jsonl")
    return str(folder.programs(text)) if text.startswith(TINY) else text


def _needs(loop: Loop, size: Size | None) -> list[str]:
    """Tokens, memory and disk, each with what it counts."""
    drawn = [arm for arm in loop.arms if arm.decoding]
    prompts, known = _count(loop.prompts, loop.prompt_limit)
    tests, tests_known = _count(loop.test.problems, loop.test.limit)
    again = [arm for arm in loop.repeated(loop.candidates[0].name) if arm.decoding]
    answered = len(drawn) + len(again) * len(loop.more_seeds)
    training = answered * prompts * loop.n * loop.max_new_tokens
    per_test = tests * loop.test.n * loop.max_new_tokens
    testing = (len(_tested(loop)) + bool(loop.baseline) + len(loop.rivals)) * per_test
    dev = 0
    if loop.dev:
        problems, _ = _count(loop.dev.problems, loop.dev.limit)
        rounds = (1 + len(loop.arms) + len(loop.rivals)) * len(loop.T_eval)
        dev = rounds * problems * loop.dev.n * loop.max_new_tokens
    lines = [
        "# what it needs, where every answer is as long as it may be:",
        f"#   tokens drawn for training: {amount(training)} ({prompts:,} prompts{known})",
        f"#   tokens drawn for dev and test: {amount(dev + testing)} ({tests:,} problems"
        f"{tests_known})",
    ]
    if size is None:
        return [*lines, "#   memory and disk: unknown without the model's config"]
    longest = min(loop.training.max_length, loop.max_new_tokens)
    students = len(_tested(loop)) - 1
    probed = len(loop.texts) * len(loop.probed) * (loop.text_limit or tests) * loop.max_new_tokens
    saved, written = students * _saved(loop.training, size), training + dev + testing
    return [
        *lines,
        *_memory(loop, size, longest),
        f"#   disk: samples {amount(written * TOKEN_BYTES)}B; checkpoints {amount(saved)}B; probes "
        f"{amount(probed * ROW_BYTES)}B",
    ]


def _memory(loop: Loop, size: Size, longest: int) -> list[str]:
    config, answer = loop.training, loop.max_new_tokens
    frozen = HALF if config.half else SINGLE
    held = size.parameters * (frozen if config.lora_rank else TRAINED)
    loss = "in chunks of 64 MB; the model's own would take"
    kept = (
        "" if config.gradient_checkpointing else " with --gradient-checkpointing, without it more"
    )
    return [
        f"#   memory to sample: {amount(size.weights)}B of weights in "
        f"{'float32' if size.single else 'bfloat16'}, and {amount(size.cache(answer))}B of keys "
        f"and values an answer of {answer:,} tokens, {loop.batch_size} of them at a time",
        f"#   memory to train: {amount(held)}B of weights, gradients and AdamW's moments over all "
        f"devices ({'adapters besides' if config.lora_rank else '16 bytes a parameter'}), and "
        f"{amount(size.states(longest))}B a sample of {longest:,} tokens{kept}; "
        f"{config.batch_size} at a time on a device",
        f"#   logits of such a sample: {loss} {amount(size.logits(longest))}B",
    ]


def _saved(config: TrainConfig, size: Size) -> int:
    """Bytes that a training leaves: its checkpoint, and resumable ones."""
    if config.lora_rank:
        return 0
    whole = size.parameters * SINGLE
    return whole + (KEPT * 3 * whole if config.save_steps else 0)


def _count(source: str, limit: int | None) -> tuple[int, str]:
    """How many prompts, and in words where that is assumed."""
    from ssd_probe.problems.prompts import read_prompts

    try:
        return len(read_prompts(source, limit)), ""
    except UserError:
        assumed = limit or PROBLEMS
        why = "as the limit says" if limit else "as LiveCodeBench v6 has"
        return assumed, f", {why}: {source} is not here"
