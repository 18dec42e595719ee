"""What a run, a record or a recipe says of itself, by the keys of `ASPECTS`."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from ssd_probe.commands.loop.declaration import BASE, MAIN, Arm, Loop
from ssd_probe.commands.loop.presets import PAPER, choose
from ssd_probe.commands.run_folder import CHOICE, RunFolder, as_written
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.files.reading import read_jsonl, read_yaml
from ssd_probe.files.record import read_object, read_record

FOLDER = Path(str(files("ssd_probe"))) / "commands" / "diffing" / "recipes"
RECIPES = ("paper", "ml-ssd")
PAPER_MODEL = "qwen3-4b-instruct"  # of `paper` where the run's model is none of the paper's
OURS = "empty answers and single-line stubs left out"
OWN = ("seed", "n", "timeout", "precision", "weights")  # what a preset takes from this tool
STREAMS = "a stream for each problem and answer"


class Fact(NamedTuple):
    """What is said, where, and the digest that decides equality where both sides have one."""

    value: str
    source: str
    identity: str | None = None


class Side(NamedTuple):
    """One of the two: its name, and its facts by key; a key that is absent is not known."""

    name: str
    facts: dict[str, Fact]


def side_of(path: Path) -> Side:
    """Of a run's folder, a checkpoint of `train`, samples, or a result of `evaluate --out`.

    Raises UserError for what has no record, or one of another kind.
    """
    record = path / "run.json" if path.is_dir() else path.with_name(path.name + ".run.json")
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if not record.is_file():
        raise UserError(
            f"{path}: no {record.name} beside or in it; give a run's folder, or what `sample`, "
            f"`train` or `evaluate --out` wrote; or one of {', '.join(RECIPES)}"
        )
    content = read_record(record)
    settings = content["settings"]
    with as_written(record):
        if "loop" in settings:
            return Side(str(path), _run(RunFolder.load(path), content))
        for key, read in (("decoding", _sampled), ("learning_rate", _trained)):
            if key in settings:
                return Side(str(path), read(content, record.name))
        if "seconds" in settings:
            return Side(str(path), _evaluated(content, record.name))
    raise UserError(f"{record}: of none of run, sample, train, evaluate; nothing is compared")


def recipe(name: str, run: Side) -> Side:
    """`ml-ssd`; `paper`, of the paper's model that the run's is; or `paper:NAME`, of that one."""
    kind, _, model = name.partition(":")
    content = read_yaml(FOLDER / f"{kind}.yaml")
    own = {k: Fact(str(f["is"]), f["source"]) for k, f in content["facts"].items()}
    if kind != "paper":
        if model:
            raise UserError(f"{name}: only the paper has several models; write {kind}")
        return Side(content["title"], own)
    if model and model not in PAPER:
        raise UserError(f"{name}: the paper's models are {', '.join(PAPER)}")
    hub = run.facts["model"].value if "model" in run.facts else ""
    model = model or next((n for n, (h, _) in PAPER.items() if h == hub), PAPER_MODEL)
    facts = _declared(choose(model).loop, None, "its preset: Tables 3 and 4, appendix")
    for key in OWN:
        facts.pop(key, None)
    facts["n"] = Fact("1", "section 1")
    return Side(f"{content['title']} ({model})", facts | own)


def _run(folder: RunFolder, content: Mapping[str, Any]) -> dict[str, Fact]:
    """What the run declares, then what its records of the main arm say was done."""
    loop = folder.loop
    chosen = read_object(folder.out / CHOICE) if (folder.out / CHOICE).is_file() else {}
    main = chosen.get(MAIN) or (loop.candidates or loop.arms)[0].name
    facts = _declared(loop, loop.arm(main), f"run.json, arm {main}")
    settings = content["settings"]
    weights = settings["model"]["weights"]
    facts["model"] = facts["model"]._replace(identity=weights)
    facts["template"] = _template(settings["model"], "run.json")
    test = settings.get("problems", {}).get("test")
    facts["window"] = facts["window"]._replace(identity=test)
    facts["engine"] = _engine(content, "run.json")
    if main in chosen.get("T_eval", {}):
        decoding = Decoding(chosen["T_eval"][main], loop.top_k_eval, loop.top_p_eval)
        facts["eval"] = Fact(_decoding(decoding), f"{CHOICE}, of {main}; {BASE}: its own")
    samples = folder.samples(main)
    for record, read in (
        (samples.with_name(samples.name + ".run.json"), _sampled),
        (Path(folder.checkpoint(main)) / "run.json", _trained),
    ):
        if record.is_file():
            found = read(read_record(record), str(record.relative_to(folder.out)))
            facts |= {k: f for k, f in found.items() if k not in ("model", "seed", "prompts")}
    return facts


def _declared(loop: Loop, arm: Arm | None, source: str) -> dict[str, Fact]:
    arm, training = arm or loop.arms[0], loop.training
    said: dict[str, Any] = {
        "model": loop.model,
        "style": loop.style if loop.style != "auto" else None,
        "train": arm.decoding and _decoding(arm.decoding),
        "source": arm.source or BASE,
        "seed": _seed(loop.seed),
        "eval": ", or ".join(map(_decoding, loop.eval_decodings)),
        "eval_n": loop.test.n,
        "window": _window(loop.test.problems, loop.test.limit),
        "timeout": f"{loop.timeout:g} s a program",
        "prompts": loop.prompts, "count": loop.prompt_limit, "n": loop.n,
        "max_new_tokens": loop.max_new_tokens,
    }  # fmt: skip
    own = {"dedup": "none"} if source.startswith("run.json") else {}
    trained = vars(training) | {"planned": {}}
    facts = {k: Fact(str(v), source) for k, v in (said | own).items() if v is not None}
    order = {"order": arm.decoding.to_dict()["order"]} if arm.decoding else {}
    return facts | {k: Fact(v, source) for k, v in (order | _hyper(trained)).items()}


def _sampled(content: Mapping[str, Any], source: str) -> dict[str, Fact]:
    settings = content["settings"]
    made = settings["decoding"]
    decoding = Decoding(made["temperature"], made["top_k"], made["top_p"])
    said = {
        "model": content.get("model"), "style": settings.get("style"),
        "order": content.get("order") or made.get("order"),
        "train": str(made.get("policy") or _decoding(decoding)),
        "seed": _seed(settings.get("seed")), "dedup": "none",
        "prompts": content.get("source"), "count": content.get("prompts"), "n": settings["n"],
        "max_new_tokens": settings["max_new_tokens"],
    }  # fmt: skip
    facts = {k: Fact(str(v), source) for k, v in said.items() if v is not None}
    _identify(facts, "model", settings["model"]["weights"])
    _identify(facts, "prompts", settings.get("prompts"))
    return facts | {
        "template": _template(settings["model"], source),
        "engine": _engine(content, source),
    }


def _trained(content: Mapping[str, Any], source: str) -> dict[str, Fact]:
    settings = content["settings"]
    said = _hyper({**settings, "planned": content.get("planned", {})})
    facts = {k: Fact(v, source) for k, v in said.items()}
    if content.get("model"):
        facts["model"] = Fact(content["model"], source, settings["model"]["weights"])
    return facts


def _evaluated(content: Mapping[str, Any], source: str) -> dict[str, Fact]:
    settings = content["settings"]
    return {
        "window": Fact(_window(content["problems"], None), source, settings["problems"]),
        "timeout": Fact(f"{settings['seconds']:g} s a program", source),
    }


def _hyper(values: Mapping[str, Any]) -> dict[str, str]:
    """The training's facts, steps as planned where that is recorded."""
    planned = values["planned"]
    steps = planned.get("steps") or (values["max_steps"] if values["max_steps"] > 0 else None)
    warmup = planned.get("warmup_steps", values["warmup_steps"])
    length = f"{steps} steps" if steps else f"{values['epochs']:g} epochs"
    share = f" of {steps} steps ({warmup / steps:.0%})" if steps and warmup is not None else ""
    cut = ", and what was cut by its length" if values.get("drop_unfinished") else ""
    found = {
        "filter": OURS + cut,
        "rate": f"{values['learning_rate']:g}, cosine to {values['min_lr_ratio']:g} of it",
        "steps": length,
        "batch": str(values["batch_size"] * values["gradient_accumulation"]),
        "decay": f"{values['weight_decay']:g}",
        "max_length": f"{values['max_length']} tokens",
        "precision": "bfloat16" if values["bf16"] else str(values.get("dtype") or "float32"),
        "weights": f"LoRA of rank {rank}" if (rank := values.get("lora_rank")) else "all",
    }
    return found if warmup is None else {**found, "warmup": f"{warmup}{share}"}


def _window(problems: str, limit: int | None) -> str:
    """Which problems; of a LiveCodeBench file that is here how many, of which months."""
    first = f", the first {limit}" if limit else ""
    if not Path(problems).is_file():
        return f"{problems}{first}"
    months = sorted(str(r["contest_date"])[:7] for r in read_jsonl(Path(problems))[:limit]
                    if r.get("contest_date"))  # fmt: skip
    dates = f", {len(months)} problems, {months[0]} to {months[-1]}" if months else first
    return f"{Path(problems).name}{dates}"


def _template(model: Mapping[str, Any], source: str) -> Fact:
    digest = model.get("template")
    return Fact(f"of digest {digest[:8]}" if digest else "none", source, digest)


def _engine(content: Mapping[str, Any], source: str) -> Fact:
    named = content.get("engine_version") or content["settings"].get("engine")
    return Fact(str(named or f"transformers {content['versions']['transformers']}"), source)


def _seed(seed: int | None) -> str:
    return "none when sampling" if seed is None else f"{seed}, {STREAMS}"


def _identify(facts: dict[str, Fact], key: str, identity: str | None) -> None:
    if key in facts:
        facts[key] = facts[key]._replace(identity=identity)


def _decoding(decoding: Decoding) -> str:
    return f"T={decoding.temperature:g}, top-k {decoding.top_k or 'off'}, top-p {decoding.top_p:g}"
