"""`ssd-probe demo`: the whole story of simple self-distillation on the bundled checkpoint.

Sample from the base -> fine-tune on the raw samples -> choose each model's T_eval on the dev split
-> evaluate on the test split -> probe both models on the same programs -> compare and draw. Every
step leaves a file in the run folder and is skipped when that file is there, so an interrupted demo
goes on where it stopped.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from ssd_probe.analysis.compare import compare
from ssd_probe.analysis.labels import SupportRule, score_against_truth
from ssd_probe.analysis.passk import paired_difference, pass_curves, pass_table
from ssd_probe.checkpoints import load_tokenizer
from ssd_probe.data import read_jsonl, read_texts, write_jsonl
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.evaluate import evaluate, load_tasks
from ssd_probe.probe import Probe, probe
from ssd_probe.run import begin, claim, write_json
from ssd_probe.stages import identity, sample_stage, train_stage
from ssd_probe.story import draw_figures, tell
from ssd_probe.tiny import domain
from ssd_probe.tiny.truth import program_rows, true_labels
from ssd_probe.train import TrainConfig

MODELS = ("base", "ssd", "control")


@dataclass(frozen=True)
class DemoConfig:
    """Everything the demo's numbers depend on; the defaults made the README's table."""

    train_decoding: Decoding = Decoding.preset("qwen3-4b-instruct", "train")
    control_decoding: Decoding = Decoding()  # T=1, no truncation: the theory's fixed point
    prompts: int = 4_000
    learning_rate: float = 1e-3
    epochs: float = 2.0
    temperatures: tuple[float, ...] = (1.0, 1.3, 1.6, 1.9, 2.2)
    dev_problems: int = 120
    dev_samples: int = 4
    test_problems: int = 240
    test_samples: int = 10
    probed_programs: int = 240
    seed: int = 0

    def settings(self) -> dict:
        """As recorded in run.json."""
        decodings = {key: value.to_dict() for key, value in vars(self).items() if "dec" in key}
        return asdict(self) | decodings

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


def run_demo(out: Path, config: DemoConfig, say: Callable[[str], None] = print) -> dict:
    """Run, or go on with, the demo in folder `out`; returns the content of its summary.json.

    Errors: `UserError` when `out` is in use, holds something else, or was made with other settings.
    """
    started = time.time()
    if out.is_dir() and any(out.iterdir()) and not (out / "run.json").exists():
        raise UserError(f"{out}: not empty and not a run; choose another --out")
    with claim(out):
        begin(out / "run.json", identity("tiny") | {"demo": config.settings()})
        train_students(out, config)
        best = choose_temperatures(out, config)
        summary = {"best_temperature": best, **passes(out, config, best), **probes(out, config)}
        summary["figures"] = [str(path.relative_to(out)) for path in draw_figures(out)]
        summary["seconds"] = round(time.time() - started, 1)
        write_json(out / "summary.json", summary)
    say(tell(summary, out))
    return summary


def train_students(out: Path, config: DemoConfig) -> None:
    """Steps 1 and 2, for SSD and for its control: the same training on T=1 samples."""
    recipe = TrainConfig(
        learning_rate=config.learning_rate,
        epochs=config.epochs,
        batch_size=64,
        warmup_steps=10,
        seed=config.seed,
    )
    for name, decoding in (("ssd", config.train_decoding), ("control", config.control_decoding)):
        samples = out / "samples" / f"{name}.jsonl"
        draw(out, config, "base", "tiny:ssd", config.prompts, 1, decoding, samples)
        train_stage("tiny", samples, recipe, checkpoint(out, name))


def checkpoint(out: Path, name: str) -> Path:
    """The student's folder; SSD's is the run's `checkpoint/`."""
    return out / ("checkpoint" if name == "ssd" else name)


def draw(
    out: Path,
    config: DemoConfig,
    name: str,
    prompts: str,
    count: int,
    n: int,
    decoding: Decoding,
    file: Path,
) -> list[dict]:
    """Sample from one of the three models."""
    return sample_stage(
        "tiny" if name == "base" else str(checkpoint(out, name)),
        prompts,
        decoding,
        file,
        limit=count,
        n=n,
        max_new_tokens=192,
        batch_size=512,
        seed=config.seed * 1_000_000,
    )


def evaluated(out: Path, config: DemoConfig, name: str, split: str, temperature: float):
    """One row a sampled program of `name` on a split at T_eval, with `model`, `temperature`."""
    stem = f"{split}-{name}-T{temperature:g}"
    results = out / "evaluations" / f"{stem}.jsonl"
    if not results.exists():
        count = config.dev_problems if split == "dev" else config.test_problems
        n = config.dev_samples if split == "dev" else config.test_samples
        decoding = config.eval_decoding(temperature)
        file = out / "samples" / f"{stem}.jsonl"
        rows = draw(out, config, name, f"tiny:{split}", count, n, decoding, file)
        frame = evaluate(rows, load_tasks(f"tiny:{split}"))
        frame = frame.assign(model=name, temperature=temperature)
        write_jsonl(results, frame.to_dict("records"))
    return pd.DataFrame(read_jsonl(results))


def choose_temperatures(out: Path, config: DemoConfig) -> dict[str, float]:
    """The T_eval with the highest pass@1 on the dev split, for each model on its own."""
    sweep = pd.concat(
        evaluated(out, config, name, "dev", temperature)
        for name in MODELS
        for temperature in config.temperatures
    )
    curves = pass_curves(sweep, ks=(1,), by=None)
    best = curves.loc[curves.groupby("model")["estimate"].idxmax()]
    return {name: float(t) for name, t in zip(best["model"], best["temperature"], strict=True)}


def passes(out: Path, config: DemoConfig, best: dict[str, float]) -> dict:
    """pass@1 and pass@5 on the test split, each model at its own best T_eval, and differences."""
    results = {name: evaluated(out, config, name, "test", best[name]) for name in MODELS}
    tables = [pass_table(results[name]).assign(model=name) for name in MODELS]
    differences = [
        paired_difference(results["base"], results[name]).assign(model=name)
        for name in ("ssd", "control")
    ]
    return {
        "pass_at_k": pd.concat(tables).to_dict("records"),
        "differences": pd.concat(differences).to_dict("records"),
    }


def probes(out: Path, config: DemoConfig) -> dict:
    """Probe base and SSD on the same noise-free programs and compare them by true label."""
    programs = out / "samples" / "programs.jsonl"
    chosen = domain.problems("test", config.probed_programs)
    tokenizer = load_tokenizer("tiny")
    if not programs.exists():
        write_jsonl(programs, program_rows(tokenizer, chosen, config.seed))
    texts = read_texts([programs])
    models = {"base": "tiny", "ssd": str(checkpoint(out, "ssd"))}
    for name, model in models.items():
        probe(model, texts, out / "probes" / name, batch_size=64)
    before, after = (Probe.load(out / "probes" / name).frame for name in models)
    truth = true_labels(tokenizer, chosen, read_jsonl(programs))
    labels = before.merge(truth, on=["sample_id", "position"], how="left")["truth"]
    rule = SupportRule(config.train_decoding)
    found = score_against_truth(rule.label(before), labels, rule.score(before))
    return {
        "comparison": compare(before, after, labels, config.train_decoding).to_dict("records"),
        "rule": found.to_dict("records"),
    }
