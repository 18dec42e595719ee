"""Step 1 of SSD: sample solutions from a frozen model (paper section 1).

What draws them is a source, of an engine (`engines`). What is saved are the **token ids**, since
every later number comes from teacher forcing on exactly those.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ssd_probe.core.config import SampleConfig
from ssd_probe.core.drawing import answers
from ssd_probe.core.requests import (
    CONTEXT,
    FINISHED,
    Answers,
    Drawn,
    Engine,
    Request,
    Source,
    collect,
    stop_reason,
)
from ssd_probe.decoding import Policy
from ssd_probe.errors import UserError
from ssd_probe.files.reading import read_jsonl
from ssd_probe.files.writing import write_jsonl
from ssd_probe.models.limits import Limits, limits_of
from ssd_probe.models.tokens import completion_text, render_prompt, token_ids
from ssd_probe.problems.prompts import Prompt
from ssd_probe.problems.rows import stop_strings


def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    policy: Policy,
    config: SampleConfig | None = None,
    *,
    part: Path | None = None,
    label: str = "sampling",
    how: str | None = None,
    **settings: Any,
) -> list[dict]:
    """`config.n` answers a prompt by a model in this process; `settings` change the config.

    Rows and errors: see `sample_by`. `how` prompts share a batch: see `batching`.
    """
    config = replace(config or SampleConfig(), **settings)
    about: dict[str, Any] = {"seed": config.seed, "batch_size": config.batch_size, "how": how}

    def source(left: Mapping[int, Request]) -> Answers:
        return answers(model, tokenizer, left, policy, **about)

    limits = limits_of(model, tokenizer)
    return sample_by(source, limits, tokenizer, prompts, policy, config, part=part, label=label)


def sample_by(
    source: Source,
    limits: Limits,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    policy: Policy,
    config: SampleConfig,
    *,
    about: Mapping[str, Any] = MappingProxyType({}),
    mine: Callable[[int], bool] = lambda number: True,
    part: Path | None = None,
    label: str = "sampling",
) -> list[dict]:
    """`config.n` answers a prompt from a source, in the order of the prompts.

    Rows: `sample_id, problem_id, messages | prompt, completion, prompt_ids, completion_ids,
    style, finished, stop_reason`, a rival's `policy`, what is `about` all (the engine), and what
    else the prompt carried. `completion_ids` end with the stop token when `finished`, or before the
    prompt's stop string; `completion` is what they add to the prompt's text, without special
    tokens. `style`: chat for messages, raw for text to continue. An answer that reaches the model's
    context ends there, unfinished, and stderr says how many did.
    Each sample has random numbers of its own (`streams`): with the same seed it is the same,
    whatever else is drawn beside it, but for the rounding of batches. With `part`, finished answers
    are kept in that file and not drawn again. Only prompts whose numbers are `mine` are answered.

    Errors: `UserError` for a prompt without tokens, or that leaves no room in the context.
    """
    chosen = [prompt for number, prompt in enumerate(prompts) if mine(number)]
    requests = _requests(limits, tokenizer, chosen, config)
    drawn = collect(source, requests, part=part, label=label)
    rival = policy.to_dict().get("policy")  # of a plain decoding: None
    extra = {**({} if rival is None else {"policy": rival}), **about}
    done = [
        _row(tokenizer, limits, chosen[place // config.n], request, each) | extra
        for place, (request, each) in enumerate(zip(requests, drawn, strict=True))
    ]
    # A prompt file may hold answers of its own under these names.
    for place, row in enumerate(done):
        meta = chosen[place // config.n].meta
        row |= {key: value for key, value in meta.items() if key not in row}
    if ended := at_context(done):
        line = f"{ended} of {len(done)} answers end unfinished at the model's context of "
        print(f"{line}{limits.context}", file=sys.stderr)
    return done


def at_context(rows: Sequence[dict]) -> int:
    """How many samples are unfinished because the model's context ended."""
    return sum(row["stop_reason"] == CONTEXT for row in rows)


def sample_to_file(
    path: Path,
    engine: Engine,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    policy: Policy,
    config: SampleConfig,
    **settings: Any,
) -> list[dict]:
    """`sample_by` an engine into a JSON Lines file that appears only when it is complete; resumes.

    The caller has checked that the settings are those of the file (`files.record.begin`).
    """
    if path.exists():  # empty of a shard without prompts
        return read_jsonl(path) if path.stat().st_size else []
    part = path.with_name(path.name + ".part")

    def source(left: Mapping[int, Request]) -> Answers:
        return engine.answers(left, policy, config.seed)

    about = {"about": engine.about(policy), "part": part, "label": path.stem, **settings}
    rows = sample_by(source, engine.limits, tokenizer, prompts, policy, config, **about)
    write_jsonl(path, rows)
    part.unlink(missing_ok=True)  # there is none where a shard has no prompts
    return rows


def _requests(
    limits: Limits, tokenizer: Any, prompts: Sequence[Prompt], config: SampleConfig
) -> list[Request]:
    context, vocabulary = limits.context or sys.maxsize, limits.vocabulary
    requests: list[Request] = []
    for prompt in prompts:
        ids, name = render_prompt(tokenizer, prompt), prompt.problem_id
        if not ids:
            raise UserError(
                f"{name}: the prompt is empty, and the tokenizer puts no token before it; "
                "give it some text, if only the name of a special token"
            )
        if max(ids) >= vocabulary:
            raise UserError(
                f"{name}: token id {max(ids)} is outside the model's vocabulary of {vocabulary}; "
                "is the tokenizer another model's?"
            )
        if len(ids) >= context:
            raise UserError(
                f"{name}: the prompt has {len(ids)} tokens, the model's context is {context}: no "
                "room for an answer; shorten it, or leave it out"
            )
        room = min(config.max_new_tokens, context - len(ids))
        requests += [Request(name, i, ids, room, prompt.stop) for i in range(config.n)]
    return requests


def _row(tokenizer: Any, limits: Limits, prompt: Prompt, request: Request, drawn: Drawn) -> dict:
    reason = stop_reason(request, drawn, limits)
    asked = {"messages": prompt.messages} if prompt.messages else {"prompt": prompt.text}
    return {
        "sample_id": f"{prompt.problem_id}/{request.index}",
        "problem_id": prompt.problem_id,
        **asked,
        "completion": completion_text(tokenizer, request.ids, drawn.ids),
        "prompt_ids": request.ids,
        "completion_ids": drawn.ids,
        "style": "chat" if prompt.messages else "raw",
        "finished": reason in FINISHED,
        "stop_reason": reason,
    }


def usable(rows: Sequence[dict], tokenizer: Any = None) -> list[dict]:
    """Drop what the paper drops: empty answers and single-line stubs. Nothing else is filtered.

    A raw answer of one line goes on from a signature; it is a stub if it is `pass` or `...`. With
    `tokenizer`, a sample may have token ids alone. `UserError` for one without a completion.
    """
    texts = [_completion(row, number, tokenizer) for number, row in enumerate(rows, start=1)]
    return [row for row, text in zip(rows, texts, strict=True) if not _is_stub(row, text.strip())]


def _is_stub(row: dict, text: str) -> bool:
    return text in ("", "pass", "...") if stop_strings(row) else "\n" not in text


def _completion(row: dict, number: int, tokenizer: Any) -> str:
    text, ids = row.get("completion"), row.get("completion_ids")
    if text is None and ids is not None and tokenizer is not None:
        token_ids(row, "completion_ids", len(tokenizer))
        return completion_text(tokenizer, row.get("prompt_ids") or [], ids)
    if not isinstance(text, str):
        raise UserError(
            f"sample {number}: no `completion` text; make samples with `ssd-probe sample`"
        )
    return text
