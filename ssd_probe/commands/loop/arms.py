"""Steps 1 and 2: an arm's training data, and its student."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ssd_probe.commands.loop.declaration import Arm, Loop
from ssd_probe.commands.run_folder import TINY, RunFolder
from ssd_probe.commands.sample import sample_stage, style_for
from ssd_probe.commands.sampling.certificates import certificate_for
from ssd_probe.commands.train import train_stage
from ssd_probe.core.config import SampleConfig
from ssd_probe.engines.choice import serve_all
from ssd_probe.errors import UserError
from ssd_probe.files.claims import claim
from ssd_probe.files.digests import digest
from ssd_probe.files.record import read_record, recording
from ssd_probe.files.writing import write_jsonl
from ssd_probe.models.identity import Checkpoint, tokenizer_identity
from ssd_probe.models.tokens import continuation_ids, render_prompt
from ssd_probe.problems.prompts import Prompt, read_prompts
from ssd_probe.problems.texts import Text, read_texts
from ssd_probe.tiny import domain
from ssd_probe.tiny.truth import program_rows
from ssd_probe.views.doubts import (
    collect,
    cut_of_arms,
    cut_samples,
    few_steps,
    one_seed,
    shorter_answers,
    unlike_training,
)


def rounds(loop: Loop) -> list[list[Arm]]:
    """The arms in order: a round holds those whose source was made in a round before."""
    depth: dict[str, int] = {}
    for arm in loop.arms:
        depth[arm.name] = depth[arm.source] + 1 if arm.source else 0
    return [[arm for arm in loop.arms if depth[arm.name] == level]
            for level in range(max(depth.values()) + 1)]  # fmt: skip


def make_student(folder: RunFolder, arm: Arm, seed: int) -> None:
    """Sample from the arm's source and fine-tune that on the raw samples, unless that is done.

    Of a further seed the source is that seed's too.
    """
    loop = folder.loop
    name = loop.student(arm.name, seed)
    source = loop.student(arm.source, seed) if arm.source else "base"
    model, samples = folder.checkpoint(source), folder.samples(name)
    if arm.decoding is None:
        write_corpus(loop, samples, seed)
    else:
        asked = SampleConfig(loop.n, loop.max_new_tokens, loop.batch_size, seed)
        about: dict[str, Any] = {"limit": loop.prompt_limit, "style": loop.style}
        about["choice"] = serve_all(loop.engine, loop.engine_args)
        if not samples.exists():  # else no engine is asked for its version
            named = loop.certificates, Checkpoint(model), arm.decoding
            about["certificate"] = certificate_for(*named)
        sample_stage(model, loop.prompts, arm.decoding, samples, asked, **about)
    recipe = replace(loop.training, seed=seed)
    train_stage(model, samples, recipe, Path(folder.checkpoint(name)))


def doubts_of_students(folder: RunFolder, main: str, answers: dict[str, Any]) -> list[str]:
    """What the trainings had to say of themselves, and what they were not alike in.

    answers: of each model's to the test problems, as of `answer_lengths`.
    """
    loop, told = folder.loop, []
    known = {a.name: made for a in loop.arms if (made := folder.training(a.name)) is not None}
    if main in known:
        ours = known[main]
        for name in (arm.name for arm in loop.arms if arm.is_control and arm.name in known):
            theirs = known[name]
            used, steps = (ours.used, theirs.used), (ours.steps, theirs.steps)
            told.append(unlike_training(main, name, used, steps))
        lengths = answers["base"]["tokens"], answers[main]["tokens"]
        told.append(shorter_answers(main, lengths, ours.cut, ours.of))
    told.append(few_steps({name: made.steps for name, made in known.items()}))
    kept = not loop.training.drop_unfinished
    told.append(cut_of_arms({name: (made.cut, made.of) for name, made in known.items()}, kept))
    for arm in loop.arms:
        record = read_record(Path(folder.checkpoint(arm.name)) / "run.json")
        own = known.get(arm.name)
        said = {cut_samples(own.cut, own.of, kept)} if own else set()
        told += [f"{arm.name}: {d}" for d in record.get("doubts", []) if d not in said]
    return collect(told, one_seed(1 + len(loop.more_seeds)))


def write_corpus(loop: Loop, out: Path, seed: int) -> None:
    """The corpus' own solutions of the prompts, in the form of samples, instead of samples."""
    checkpoint = Checkpoint(loop.model)
    tokenizer, style = checkpoint.tokenizer, style_for(loop.prompts, checkpoint, loop.style)
    prompts = read_prompts(loop.prompts, loop.prompt_limit, style)
    settings = {"tokenizer": tokenizer_identity(tokenizer), "prompts": digest(prompts),
                "seed": seed, "from": "text"}  # fmt: skip
    with (
        claim(out, is_file=True),
        recording(
            out.with_name(out.name + ".run.json"), settings, {"source": loop.prompts}, (out,)
        ),
    ):
        if out.exists():
            return
        if loop.prompts.startswith(TINY):
            chosen = domain.tiny_problems(loop.prompts.removeprefix(TINY), loop.prompt_limit)
            write_jsonl(out, program_rows(tokenizer, chosen, seed))
            return
        texts = {text.problem_id: text for text in read_texts([loop.prompts])}
        if lost := [p.problem_id for p in prompts if p.problem_id not in texts]:
            raise UserError(f"{loop.prompts}: no solution of {lost[0]} for an arm from text")
        write_jsonl(out, [_solved(tokenizer, p, texts[p.problem_id]) for p in prompts])


def _solved(tokenizer: object, prompt: Prompt, text: Text) -> dict:
    """A prompt with its own solution: fenced and whole in a chat, else what goes on from it."""
    answer = text.completion
    if prompt.messages is not None:
        whole = (text.prompt or "") + answer
        answer = f"```python\n{whole.rstrip()}\n```"
    ids = render_prompt(tokenizer, prompt)  # type: ignore[arg-type]
    end = tokenizer.eos_token_id  # type: ignore[attr-defined]
    asked = {"messages": prompt.messages} if prompt.messages else {"prompt": prompt.text}
    return {
        "sample_id": f"{prompt.problem_id}/corpus",
        "problem_id": prompt.problem_id,
        **asked,
        "completion": answer,
        "prompt_ids": ids,
        "completion_ids": [*continuation_ids(tokenizer, ids, answer), end],  # type: ignore[arg-type]
        "finished": True,
        **prompt.meta,
    }
