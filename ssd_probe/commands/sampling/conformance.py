"""`ssd-probe doctor --engine`: an engine's draws against a policy, and a certificate of it."""

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ssd_probe.core.requests import Engine
from ssd_probe.core.sample import sample
from ssd_probe.decoding import Decoding, Policy
from ssd_probe.engines.choice import Choice, engine_of
from ssd_probe.engines.conformance import Context, choose, examine
from ssd_probe.errors import Failed
from ssd_probe.files.writing import write_json
from ssd_probe.models.identity import Checkpoint
from ssd_probe.problems.prompts import read_prompts

CONTEXTS = 16
ANSWERED, LENGTH = 8, 48  # prompts, and tokens of each answer, that contexts are taken from
BATCH = 256


def conformance_stage(
    checkpoint: Checkpoint,
    policy: Policy,
    choice: Choice,
    *,
    draws: int,
    rounding: float = 0.0,
    seed: int = 0,
    out: Path | None = None,
) -> dict[str, Any]:
    """The certificate, written to `out`. `Failed`, after that, where the engine did not pass.

    The model's weights are needed here, for its own probabilities.
    """
    with closing(engine_of(choice, checkpoint, BATCH)) as engine:
        about = engine.about(policy)  # who is not there says so before anything is computed
        tokenizer = checkpoint.tokenizer
        found = choose(contexts_of(checkpoint), policy, CONTEXTS, rounding, tokenizer)
        asked: dict[str, Any] = {"draws": draws, "rounding": rounding, "seed": seed}
        told = certify(engine, found, policy, tokenizer=tokenizer, **asked)
    certificate = {
        **about,
        "model": checkpoint.identity,
        "decoding": policy.to_dict(),
        "setup": engine.settings(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **told,
    }
    if out is not None:
        write_json(out, certificate)
    if not certificate["passed"]:
        raise Failed(f"{about['engine_version']}: {reason_of(certificate, policy)}")
    return certificate


def certify(
    engine: Engine, contexts: list[Context], policy: Policy, **settings: Any
) -> dict[str, Any]:
    """`examine` for an engine."""
    return examine(
        lambda ids, count, seed: engine.draws(ids, count, policy, seed),
        contexts,
        policy,
        support=lambda ids: engine.support(ids, policy),
        **settings,
    )


@torch.no_grad()
def contexts_of(checkpoint: Checkpoint) -> list[Context]:
    """Every position of a few answers of the model itself, at T=1."""
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    source = "tiny:dev" if checkpoint.name == "tiny" else "basics:dev"
    prompts = read_prompts(source, ANSWERED, "chat" if checkpoint.is_chat else "raw")
    found = []
    for row in sample(model, tokenizer, prompts, Decoding(1.0), max_new_tokens=LENGTH):
        prompt, new = row["prompt_ids"], row["completion_ids"]
        ids = torch.tensor([prompt + new], device=model.device)
        logits = model(ids).logits[0, len(prompt) - 1 : -1].double().cpu()
        found += [Context(prompt + new[:i], each) for i, each in enumerate(logits)]
    return found


def reason_of(certificate: dict[str, Any], policy: Policy) -> str:
    """Why it did not pass, in words."""
    paths = certificate["paths"]
    outside = sum(path["outside"] for path in paths.values())
    drawn = sum(certificate["draws"].values())
    worst = min(t["p_value"] for path in paths.values() for t in (path, *path["contexts"]))
    fits = certificate.get("fits")
    named = f"; they are those of: {fits[0]}" if fits else ""
    what = f"{outside} of {drawn} draws outside the support, smallest p-value {worst:.1e}"
    if (told := certificate["supports"]) and told["other"]:
        what += f", {told['other']} of {told['contexts']} supports that it told are others"
    return f"does not draw {policy}: {what}{named}"


def conformance_lines(certificate: dict[str, Any]) -> list[str]:
    lines = [f"{certificate['engine']} ({certificate['engine_version']}) draws as declared"]
    for name, path in certificate["paths"].items():
        lines.append(
            f"{name}: {path['draws']} draws at {len(path['contexts'])} contexts, none outside the "
            f"support; chi-square {path['statistic']:.1f} at {path['cells'] - 1} degrees of "
            f"freedom, p = {path['p_value']:.2g}"
        )
    if told := certificate["supports"]:
        lines.append(
            f"supports as the engine tells them: the declared ones at {told['contexts']} contexts"
        )
    lines.append(f"false-alarm rate of all tests together: {certificate['false_alarm_rate']}")
    return lines
