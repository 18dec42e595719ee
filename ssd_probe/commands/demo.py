"""`ssd-probe demo`: the whole story of simple self-distillation on the bundled checkpoint.

Sample from the base -> fine-tune on the raw samples -> choose each model's T_eval on the dev split
-> evaluate on the test split -> probe both models on the same programs -> compare and draw. Every
step leaves a file in the run folder and is skipped when that file is there, so an interrupted demo
goes on where it stopped. Models are sampled and trained two at a time (`lanes`).
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from ssd_probe.analysis.compare import compare
from ssd_probe.analysis.labels import SupportRule
from ssd_probe.analysis.passk import paired_difference, pass_curves, pass_table
from ssd_probe.analysis.scoring import score_against_truth
from ssd_probe.commands.pictures.figures import draw_figures
from ssd_probe.commands.run_folder import PROBED, PROGRAMS, labelled_probe
from ssd_probe.commands.sample import sample_stage
from ssd_probe.commands.train import train_stage
from ssd_probe.core.config import SampleConfig, TrainConfig
from ssd_probe.core.lanes import lanes
from ssd_probe.decoding import PAPER_TRAIN, Decoding
from ssd_probe.errors import UserError
from ssd_probe.execution.evaluate import evaluate
from ssd_probe.execution.sandbox import obstacle
from ssd_probe.files.claims import claim
from ssd_probe.files.reading import read_jsonl
from ssd_probe.files.record import begin
from ssd_probe.files.writing import write_json, write_jsonl
from ssd_probe.models.checkpoints import device_name, load_tokenizer
from ssd_probe.models.identity import Checkpoint
from ssd_probe.probing.probe import probe
from ssd_probe.problems.tasks import load_tasks, tasks_identity
from ssd_probe.problems.texts import read_texts
from ssd_probe.tiny import domain
from ssd_probe.tiny.language import speaks
from ssd_probe.tiny.truth import program_rows
from ssd_probe.views.story import tell

MODELS = ("base", "ssd", "control")


@dataclass(frozen=True)
class DemoConfig:
    """Everything the demo's numbers depend on; the defaults made the README's table."""

    train_decoding: Decoding = PAPER_TRAIN
    control_decoding: Decoding = Decoding()  # T=1, no truncation: the theory's fixed point
    prompts: int = 4_000
    learning_rate: float = 1e-3
    epochs: float = 2.0
    temperatures: tuple[float, ...] = (1.0, 1.3, 1.6, 1.7, 1.9, 2.2, 2.5)
    dev_problems: int = 120
    dev_samples: int = 3
    test_problems: int = 240
    test_samples: int = 10
    probed_programs: int = 240
    seed: int = 0

    def settings(self) -> dict:
        """As recorded in run.json."""
        return asdict(self) | {
            "train_decoding": self.train_decoding.to_dict(),
            "control_decoding": self.control_decoding.to_dict(),
        }

    def eval_decoding(self, temperature: float) -> Decoding:
        """T_eval varies; the truncation is the paper's for every model."""
        return replace(self.train_decoding, temperature=temperature)


QUICK = DemoConfig(
    prompts=600,
    temperatures=(1.0, 1.6, 2.2),
    dev_problems=60,
    dev_samples=2,
    test_problems=90,
    test_samples=5,
    probed_programs=60,
)


def demo_stage(out: Path, config: DemoConfig, say: Callable[[str], None] = print) -> dict:
    """Run, or go on with, the demo in folder `out`; returns the content of its summary.json.

    Errors: `UserError` when `out` is in use, holds something else, or was made with other settings.
    """
    started = time.time()
    if out.is_dir() and any(out.iterdir()) and not (out / "run.json").exists():
        raise UserError(f"{out}: not empty and not a run; choose another --out")
    with claim(out), lanes() as run:
        begin(out / "run.json", _settings(config), {"model": "tiny", "device": device_name(None)})
        say(f"1/5 sample {config.prompts} solutions at {config.train_decoding} and fine-tune on")
        say(f"    them (SSD); the same at {config.control_decoding}, no truncation (control)")
        run(train_student, [(out, config, name) for name in ("ssd", "control")])
        say("2/5 sweep T_eval on the dev split to find each model's best")
        sweep = [(name, "dev", t) for t in config.temperatures for name in MODELS]
        run(evaluate_model, [(out, config, *which) for which in sweep])
        best = best_temperatures(pd.concat(results(out, *which) for which in sweep))
        say("3/5 sample and run the programs of the held-out test problems")
        run(evaluate_model, [(out, config, name, "test", best[name]) for name in MODELS])
        unboxed = obstacle() is not None
        kept = "none; only programs of the domain's language ran" if unboxed else "bubblewrap"
        summary = {"best_temperature": best, "isolation": kept, **passes(out, best)}
        say("4/5 probe base and SSD on the same programs")
        write_programs(out, config)
        run(probe_model, [(out, name) for name in PROBED])
        summary |= positions(out, config)
        say("5/5 draw the figures")
        summary["figures"] = [str(path.relative_to(out)) for path in draw_figures(out)[0]]
        summary["seconds"] = round(time.time() - started, 1)
        write_json(out / "summary.json", summary)
    say(tell(summary, out))
    return summary


def _settings(config: DemoConfig) -> dict:
    """What the run's numbers depend on: the model, the problems with their tests, the config."""
    problems = {name: tasks_identity(load_tasks(f"tiny:{name}")) for name in ("dev", "test")}
    model = Checkpoint("tiny").identity
    return {"model": model, "problems": problems, "demo": config.settings()}


def train_student(out: Path, config: DemoConfig, name: str) -> None:
    """Steps 1 and 2 of SSD; the control differs in the sampling only."""
    decoding = config.train_decoding if name == "ssd" else config.control_decoding
    samples = out / "samples" / f"{name}.jsonl"
    sample_from(out, config, "base", "tiny:ssd", config.prompts, 1, decoding, samples)
    recipe = TrainConfig(
        learning_rate=config.learning_rate,
        epochs=config.epochs,
        batch_size=64,
        warmup_steps=10,
        seed=config.seed,
    )
    train_stage("tiny", samples, recipe, Path(checkpoint(out, name)))


def checkpoint(out: Path, name: str) -> str:
    """What to load for one of the three models; SSD's is the run's `checkpoint/`."""
    return {"base": "tiny", "ssd": str(out / "checkpoint"), "control": str(out / "control")}[name]


def sample_from(
    out: Path,
    config: DemoConfig,
    name: str,
    prompts: str,
    count: int,
    n: int,
    decoding: Decoding,
    file: Path,
) -> list[dict]:
    """Sample from one of the three models into `file`."""
    asked = SampleConfig(n, max_new_tokens=192, batch_size=128, seed=config.seed)
    return sample_stage(checkpoint(out, name), prompts, decoding, file, asked, limit=count)


def evaluate_model(
    out: Path, config: DemoConfig, name: str, split: str, temperature: float
) -> None:
    """Sample programs of a split at T_eval and run them, unless that is done."""
    if results_file(out, name, split, temperature).exists():
        return
    dev = split == "dev"
    count = config.dev_problems if dev else config.test_problems
    n = config.dev_samples if dev else config.test_samples
    samples = out / "samples" / f"{split}-{name}-T{temperature:g}.jsonl"
    decoding = config.eval_decoding(temperature)
    rows = sample_from(out, config, name, f"tiny:{split}", count, n, decoding, samples)
    boxed = obstacle() is None
    if not boxed:  # only programs of the domain's own language run: the others are errors
        rows = [row if speaks(row["completion"]) else row | {"completion": ""} for row in rows]
    frame = evaluate(rows, load_tasks(f"tiny:{split}"), workers=1, unsandboxed=not boxed)
    frame = frame.assign(model=name, temperature=temperature)
    write_jsonl(results_file(out, name, split, temperature), frame.to_dict("records"))


def results_file(out: Path, name: str, split: str, temperature: float) -> Path:
    return out / "evaluations" / f"{split}-{name}-T{temperature:g}.jsonl"


def results(out: Path, name: str, split: str, temperature: float) -> pd.DataFrame:
    """One row a sampled program: problem, verdict, `model`, `temperature`."""
    return pd.DataFrame(read_jsonl(results_file(out, name, split, temperature)))


def best_temperatures(sweep: pd.DataFrame) -> dict[str, float]:
    """The T_eval with the highest pass@1, for each model on its own."""
    curves = pass_curves(sweep, ks=(1,), by=None)
    best = curves.loc[curves.groupby("model")["estimate"].idxmax()]
    return {name: float(t) for name, t in zip(best["model"], best["temperature"], strict=True)}


def passes(out: Path, best: dict[str, float]) -> dict:
    """pass@1 and pass@5 on the test split, each model at its own best T_eval, and differences."""
    tested = {name: results(out, name, "test", best[name]) for name in MODELS}
    tables = [pass_table(tested[name]).assign(model=name) for name in MODELS]
    differences = [
        paired_difference(tested["base"], tested[name]).assign(model=name)
        for name in ("ssd", "control")
    ]
    return {
        "pass_at_k": pd.concat(tables).to_dict("records"),
        "differences": pd.concat(differences).to_dict("records"),
    }


def write_programs(out: Path, config: DemoConfig) -> None:
    """What both models are probed on: noise-free corpus programs, neither model's samples."""
    if not (out / PROGRAMS).exists():
        chosen = domain.problems("test", config.probed_programs)
        write_jsonl(out / PROGRAMS, program_rows(load_tokenizer("tiny"), chosen, config.seed))


def probe_model(out: Path, name: str) -> None:
    """Probe one model on the programs."""
    folder = out / "probes" / name
    probe(checkpoint(out, name), read_texts([out / PROGRAMS]), folder, batch_size=64)


def positions(out: Path, config: DemoConfig) -> dict:
    """Base against SSD at the true locks and forks, and how well the default rule finds those."""
    before, after = (labelled_probe(out, name) for name in PROBED)
    truth, rule = before["truth"], SupportRule()
    found = score_against_truth(rule.label(before), truth, rule.score(before))
    return {
        "comparison": compare(before, after, truth, config.train_decoding).to_dict("records"),
        "rule": found.to_dict("records"),
    }
