"""Step 4: the models probed on the same texts, and what changed at locks and forks."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ssd_probe.analysis.branching.outcomes import UNDECIDED
from ssd_probe.analysis.compare import compare
from ssd_probe.analysis.labels import SupportRule
from ssd_probe.analysis.passk import PASS
from ssd_probe.analysis.rates import by_segment
from ssd_probe.analysis.scoring import score_against_truth
from ssd_probe.commands.branching.config import BranchConfig
from ssd_probe.commands.branching.runs import Limits
from ssd_probe.commands.branching.stage import branch_stage
from ssd_probe.commands.branching.summary import summarised
from ssd_probe.commands.compare import compare_stage
from ssd_probe.commands.loop.declaration import BASE, MAIN, Loop, text_name
from ssd_probe.commands.loop.trials import test_cells
from ssd_probe.commands.probe import source_of
from ssd_probe.commands.run_folder import (
    TINY,
    RunFolder,
    compared_at,
    labelled_probe,
    probed_models,
)
from ssd_probe.commands.sweep import verdicts
from ssd_probe.core.lanes import Run
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.files.writing import write_jsonl
from ssd_probe.models.checkpoints import load_tokenizer
from ssd_probe.probing.config import ProbeConfig
from ssd_probe.probing.probe import probe
from ssd_probe.problems.texts import read_texts
from ssd_probe.tiny import domain
from ssd_probe.tiny.truth import program_rows
from ssd_probe.views.doubts import (
    collect,
    hardly_moved,
    looping,
    much_prose,
    not_its_own,
    rule_unproven,
)


def probe_models(folder: RunFolder, choice: dict, run: Run) -> None:
    """Every probed model on every text."""
    for text in folder.loop.texts:
        source = text_source(folder, choice, text)
        models = probed_models(folder, choice["main"])
        run(probe_model, [(folder, name, source, folder.probe(name, text)) for name in models])


def check_texts(loop: Loop) -> None:
    """`UserError` for a text that cannot be read."""
    for text in loop.texts:
        if text.startswith(TINY):
            domain.tiny_problems(text.removeprefix(TINY), 1)
        elif text not in {BASE, MAIN, *(arm.name for arm in loop.arms)}:
            try:
                read_texts([text], loop.text_limit)
            except UserError as error:
                raise UserError(f"texts: {error}") from None


def text_source(folder: RunFolder, choice: dict, text: str) -> str:
    """What `read_texts` reads: a model's name stands for its answers to the test problems."""
    model = choice["main"] if text == MAIN else text
    if model == BASE or model in {arm.name for arm in folder.loop.arms}:
        return str(test_cells(folder, choice)[1][model][0].samples)
    if text.startswith(TINY):
        write_programs(folder, text)
        return str(folder.programs(text))
    return text


def write_programs(folder: RunFolder, text: str = "tiny:test") -> None:
    """Noise-free programs as the domain's corpus has them, neither model's samples."""
    path, loop = folder.programs(text), folder.loop
    if not path.exists():
        chosen = domain.tiny_problems(text.removeprefix(TINY), loop.text_limit)
        write_jsonl(path, program_rows(load_tokenizer("tiny"), chosen, loop.seed))


def probe_model(folder: RunFolder, name: str, source: str, out: Path) -> None:
    """Probe one model on a text."""
    config = ProbeConfig(batch_size=folder.loop.probe_batch_size)
    limit = folder.loop.text_limit
    said = source_of([source], limit)
    probe(folder.checkpoint(name), read_texts([source], limit), out, config, source=said)


def branched(folder: RunFolder, choice: dict, unsandboxed: bool) -> dict[str, Any]:
    """The outcomes of the base's own answers to the test problems, other tokens forced."""
    loop = folder.loop
    cell = test_cells(folder, choice)[1][BASE][0]
    if not (verdicts(cell)["verdict"] == PASS).any():
        return {"lines": [], "doubts": ["no program of the base passed, so none was branched"]}
    limits = Limits(seconds=loop.timeout, workers=loop.workers, unsandboxed=unsandboxed)
    config = replace(loop.branch or BranchConfig(), seed=loop.seed)
    out = folder.out / "branch"
    found = branch_stage(loop.model, loop.test.problems, cell.samples, out, config, limits=limits)
    content, lines, _ = summarised(found, out)
    decided = sum(o["positions"] for o in content["outcomes"] if o["outcome"] != UNDECIDED)
    programs = found.positions["sample_id"].nunique()
    doubts = collect(rule_unproven(content["rule"], decided, programs))
    return {**content, "lines": lines, "doubts": doubts}


def compared(folder: RunFolder, choice: dict) -> dict[str, Any]:
    """The base against each probed student on each text.

    `comparison`: the main arm's on the first text; `comparisons`: the others, and their verdicts in
    words. Of the bundled domain's programs locks and forks are the true ones, and `rule` says how
    well the default rule finds those.
    """
    main, first = choice["main"], folder.loop.texts[0]
    found: dict[str, Any] = {"comparisons": [], "doubts": []}
    for text in folder.loop.texts:
        for name in probed_models(folder, main):
            if name == BASE:
                continue
            arm, decoding = folder.loop.arm(name), compared_at(folder, name, main)
            if text.startswith(TINY) and text == first:
                rows, told = _at_true_labels(folder, name, text, decoding)
            else:
                rows, told = _by_rule(folder, name, text, decoding)
            if (name, text) == (main, first):
                found |= {"comparison": rows, **told}
            else:
                found["comparisons"].append({"text": text, "model": name, "table": rows, **told})
            if text == first and not arm.is_control:
                if decoding == arm.decoding:
                    doubt = _moved(name, rows)
                else:
                    doubt = not_its_own(name, str(arm.decoding), str(decoding))
                found["doubts"] += collect(doubt)
    return found


def doubts_of_texts(
    folder: RunFolder, main: str, answers: dict[str, Any], segments: dict[str, int]
) -> list[str]:
    """What the first probed text is made of. segments: its positions by segment, where known."""
    model = main if folder.loop.texts[0] == MAIN else folder.loop.texts[0]
    found = answers.get(model, {"looping": 0, "answers": 0})
    return collect(looping(model, found["looping"], found["answers"]), much_prose(segments))


def _at_true_labels(
    folder: RunFolder, name: str, text: str, decoding: Decoding
) -> tuple[list[dict], dict[str, Any]]:
    split = text.removeprefix(TINY)
    before, after = (labelled_probe(folder.out, model, split) for model in (BASE, name))
    truth, rule = before["truth"], SupportRule()
    scores = score_against_truth(rule.label(before), truth, rule.score(before))
    table = compare(before, after, truth, decoding)
    return table.to_dict("records"), {"rule": scores.to_dict("records")}


def _by_rule(
    folder: RunFolder, name: str, text: str, decoding: Decoding
) -> tuple[list[dict], dict[str, Any]]:
    before, after = (folder.probe(model, text) for model in (BASE, name))
    out = folder.out / "comparisons" / f"{name}-on-{text_name(text)}"
    made = compare_stage(before, after, None, decoding, folder.loop.labels, out)
    return made.found.comparison.to_dict("records"), {
        "verdicts": made.sentences,
        "claims": {verdict.claim: verdict.holds for verdict in made.found.verdicts},
        "segments": by_segment(made.found.rates),
    }


def _moved(name: str, rows: list[dict]) -> str | None:
    """KL(q || p) of base and student over all positions, where the probes' ranks tell it."""
    table = pd.DataFrame(rows)
    every = table[table["label"] == "all"].set_index("statistic")[["base", "tuned"]].astype(float)
    if "target_kl" not in every.index:
        return None
    before, after = every.loc["target_kl"]
    out_before, out_after = (
        every.loc["compression"] if "compression" in every.index else (math.nan, math.nan)
    )
    return hardly_moved(name, before, after, (out_before, out_after))
