"""The report of a run of the whole loop: a reader's questions in their order."""

from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ssd_probe.commands.compare import COMPARISON
from ssd_probe.commands.loop.declaration import BASE, Arm
from ssd_probe.commands.loop.presets import NAMES, choose
from ssd_probe.commands.reporting.beside import (
    predicted_and_came,
    probed_arms,
    unprobed,
)
from ssd_probe.commands.reporting.comparison import drawn, inside
from ssd_probe.commands.reporting.tokens import Tokens, probe_at, tokens_of
from ssd_probe.commands.reporting.trials import worked
from ssd_probe.commands.run_folder import RunFolder, as_written, compared_at, text_words
from ssd_probe.decoding import LABELLING
from ssd_probe.files.record import read_object, read_record
from ssd_probe.views.doubts import of_record
from ssd_probe.views.report.content import (
    Block,
    Commands,
    Notes,
    Prose,
    Report,
    Section,
    Table,
    Terms,
)
from ssd_probe.views.report.terms import NAME, RUN, TITLE
from ssd_probe.views.story import answers


def of_run(folder: Path, most: int) -> tuple[Report, Tokens | None]:
    """Of a run's folder; of an unfinished one what is there. `UserError` for another folder."""
    run = RunFolder.load(folder)
    record = read_record(folder / "run.json")
    title = f"What self-distillation did to {record.get('model', run.loop.model)}"
    begun = record["created"].replace("T", " ").replace("+00:00", " UTC")
    subtitle = f"A run of ssd-probe ({record.get('name', 'a declared loop')}), begun {begun}."
    what = Section("what", "What was run?", _what(run, record))
    repeat = Section("repeat", "How to repeat it", _repeat(run, str(record.get("name"))))
    if not (folder / "summary.json").is_file():
        told = "This run is not finished; the same command goes on with it."
        there = Section("there", "What is there so far?", _there(folder))
        return Report(title, subtitle, [told], [what, there, repeat]), None
    summary = read_object(folder / "summary.json")
    with as_written(folder / "summary.json"):
        main = summary["main"]
        lacks: list[str] = []
        sides = [probe_at(run.probe(name, run.loop.texts[0]), lacks) for name in (BASE, main)]
        tokens = None
        if sides[0] is not None and sides[1] is not None:
            at = compared_at(run, main, main)
            tokens = tokens_of(sides[0], sides[1], [BASE, main], most, at)
        sections = [
            what,
            Section("worked", "Did it work?", worked(summary, run)),
            Section("inside", "What changed inside?", _inside(summary, run, tokens)),
            Section("known", "Could we have known?", _known(summary, run)),
            Section("doubts", "What to distrust?", _doubts(summary, record)),
            repeat,
            Section(NAME, TITLE, [Terms(RUN)]),
        ]
        first, doubts = answers(summary), len(_doubt_lines(summary, record))
        if doubts:
            first.append(f"{doubts} doubt{'s' if doubts > 1 else ''}: see What to distrust?")
        return Report(title, subtitle, first + lacks, sections), tokens


def _there(folder: Path) -> list[Block]:
    """Of an unfinished run: what each step left, and the figures."""
    steps = {
        "students": "checkpoints/*/done.json",
        "chosen on dev": "choice.json",
        "dev evaluations": "evaluations/dev/**/*.json",
        "test evaluations": "evaluations/test/**/*.json",
        "probes": "probes/*/probe.json",
        "comparisons": f"comparisons/*/{COMPARISON}",
        "prediction": "prediction.json",
    }
    found = {step: sorted(folder.glob(pattern)) for step, pattern in steps.items()}
    names = {
        step: [p.parent.name if p.parent.parent.parent == folder else p.stem for p in paths]
        for step, paths in found.items()
    }
    told = [f"{step}: {', '.join(sorted({*each})) or 'none'}" for step, each in names.items()]
    figures = sorted(path.stem for path in (folder / "figures").glob("*.svg"))
    return [Notes(told), *drawn(folder / "figures", tuple(figures))]


def _what(run: RunFolder, record: dict[str, Any]) -> list[Block]:
    loop = run.loop
    arms = pd.DataFrame([_arm(run, arm) for arm in loop.arms]).fillna("")
    trials = [("test", loop.test)] + ([("dev", loop.dev)] if loop.dev else [])
    settings = {
        "model": loop.model,
        "prompts": f"{loop.prompts}, {loop.prompt_limit or 'all'}, {loop.n} answers each",
        "longest answer": f"{loop.max_new_tokens} tokens",
        "training": f"learning rate {loop.training.learning_rate:g}, "
        f"{loop.training.epochs:g} epochs of batches of {loop.training.batch_size}"
        + (f", {each} a step" if (each := loop.training.gradient_accumulation) > 1 else "")
        + (f", at most {loop.training.max_steps} steps" if loop.training.max_steps > 0 else ""),
        "T_eval tried on dev": ", ".join(f"{t:g}" for t in loop.T_eval)
        + f"; top-k {loop.top_k_eval}, top-p {loop.top_p_eval:g}",
        **{
            name: f"{trial.problems}, {trial.limit or 'all'} problems, {trial.n} samples each"
            for name, trial in trials
        },
        "probed texts": ", ".join(loop.texts),
        "seeds": ", ".join(map(str, (loop.seed, *loop.more_seeds))),
        "device": record.get("device"),
        "commit": record.get("commit"),
        **{f"{k} version": v for k, v in record.get("versions", {}).items()},
    }
    table = pd.DataFrame(
        [(key, str(value)) for key, value in settings.items() if value is not None],
        columns=["what", "value"],
    )
    deviations = record.get("deviations") or []
    told: list[Block] = []
    if deviations:
        told = [Prose("Other than in the paper (key: paper -> here):"), Notes(deviations)]
    return [Table("Students, by how their training samples were made", arms), *told,
            Table("Settings", table, folded=True, printed=True)]  # fmt: skip


def _arm(run: RunFolder, arm: Arm) -> dict[str, str]:
    """A row of the students: how its samples were made, and what it was trained on."""
    made = run.training(arm.name)
    trained = {"trained on": f"{made.used} of {made.of}", "steps": str(made.steps)} if made else {}
    return {
        "arm": arm.name,
        "its samples": "the corpus' own text" if arm.decoding is None else str(arm.decoding),
        "sampled from": arm.source or BASE,
        "control": "yes" if arm.is_control else "",
    } | trained


def _inside(summary: dict[str, Any], run: RunFolder, tokens: Tokens | None) -> list[Block]:
    content = {"table": summary["comparison"], "lines": summary.get("verdicts", [])}
    if "rule" not in summary:  # there the kinds are known
        content |= {"rule": run.loop.labels, "labelling": LABELLING.to_dict()}
    arms = len(run.loop.candidates)
    which = (
        "the only arm that is no control"
        if arms == 1
        else f"the best of {arms} arms on dev, controls aside"
    )
    rule = "branching" if run.loop.labels == "support" else "entropy"
    how = (
        "Which positions are locks and forks is known of the bundled domain's programs; the "
        "viewer below labels them by the base's branching"
        if "rule" in summary
        else f"By the base's {rule} a position is a lock (one token to choose), a fork (several), "
        "open (so many that the six likeliest hold less than half of the mass) or neither "
        "(between lock and fork)"
    )
    at = compared_at(run, summary["main"], summary["main"])
    blocks: list[Block] = [
        Prose(
            f"{summary['main']}, {which}, is the tuned model here. {how}.{unprobed(summary, run)}"
        ),
        *inside(content, run.out / "figures", tokens, at, _lengths(summary, tokens)),
        *probed_arms(summary, run),
    ]
    for each in summary.get("comparisons", []):
        told = each.get("verdicts") or []
        if told:
            on = text_words(run, each["text"])
            blocks += [Prose(f"{each['model']} against the base, on {on}:"), Notes(told)]
    if branch := summary.get("branch"):
        if branch["lines"]:
            blocks.append(Prose("Other tokens forced in programs that pass:"))
            blocks.append(Commands(branch["lines"]))
        blocks += drawn(run.out / "branch" / "figures", ("branch_probability", "branch_ranks"))
    return blocks


def _lengths(summary: dict[str, Any], tokens: Tokens | None) -> str:
    """Beside changes that end answers: how long those are."""
    answers, main = summary.get("answers", {}), summary["main"]
    known = [(answers.get(name) or {}).get("tokens") for name in (main, BASE)]
    if tokens is None or not tokens.ends or None in known:
        return ""
    means = [f"{mean:.0f}" for mean in known]
    return (
        f" The answers of {main} to the test problems have {means[0]} tokens on average, those of "
        f"the base {means[1]}."
    )


def _known(summary: dict[str, Any], run: RunFolder) -> list[Block]:
    lines = summary.get("prediction") or []
    if not lines:
        return [Prose("No prediction was asked for (`predict: true` in the declaration).")]
    said = "What `ssd-probe predict` said from the base's dev answers, before the test problems:"
    sentences: list[str] = list(lines)
    tables: list[str] = []
    if "" in lines:  # before it the sentences, after it tables
        at = lines.index("")
        sentences, tables = lines[:at], lines[at + 1 :]
    return [
        Prose(said),
        Notes(sentences),
        *([Commands(tables)] if tables else []),
        *predicted_and_came(summary, run),
    ]


def _doubts(summary: dict[str, Any], record: dict[str, Any]) -> list[Block]:
    lines = _doubt_lines(summary, record)
    return [Notes(lines, True)] if lines else [Prose("Nothing was noticed.")]


def _doubt_lines(summary: dict[str, Any], record: dict[str, Any]) -> list[str]:
    lines = [*summary["doubts"]]
    if summary.get("isolation") not in (None, "bubblewrap"):
        lines.append(f"Programs ran with this isolation: {summary['isolation']}.")
    return lines + of_record(record)


def _repeat(run: RunFolder, name: str) -> list[Block]:
    declared = yaml.safe_dump(run.loop.recorded(), sort_keys=False, allow_unicode=True)
    return [
        Prose("With the versions above:"),
        Commands([f"ssd-probe run {_source(run, name)} --out {run.out.name}"]),
        Prose("What was declared, in full; saved as loop.yaml it runs again:"),
        Commands(declared.splitlines()),
    ]


def _source(run: RunFolder, name: str) -> str:
    """What to give `run`: a preset's name where the run is that preset, else the declaration."""
    for quick in (False, True):
        if name in NAMES and choose(name, quick=quick).loop.recorded() == run.loop.recorded():
            return f"{name} --quick" if quick else name
    return "loop.yaml"
