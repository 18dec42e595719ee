"""Step 1 of SSD: sample solutions from a frozen model (paper section 1).

Generation is transformers' `generate`. What is saved are the **token ids**, since every later
number comes from teacher forcing on exactly those.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssd_probe.core.config import SampleConfig
from ssd_probe.core.drawing import Request, draw, finished
from ssd_probe.decoding import Policy
from ssd_probe.errors import UserError
from ssd_probe.files.reading import read_jsonl
from ssd_probe.files.writing import write_jsonl
from ssd_probe.models.limits import context_length, input_rows
from ssd_probe.models.tokens import completion_text, render_prompt, stop_ids, token_ids
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
    """`config.n` answers a prompt, in the order of the prompts; `settings` change the config.

    Rows: `sample_id, problem_id, messages | prompt, completion, prompt_ids, completion_ids,
    style, finished`, a rival's `policy`, and what else the prompt carried. `completion_ids` end
    with the stop token when `finished`, or before the prompt's stop string; `completion` is what
    they add to the prompt's text, without special tokens. `style`: chat for messages, raw for text
    to continue. An answer that reaches the model's context ends there, unfinished, and stderr says
    how many did.
    Each sample has random numbers of its own (`streams`): with the same seed it is the same,
    whatever else is drawn beside it, but for the rounding of batches; `how` prompts share one, see
    `batching`. With `part`, finished answers are kept in that file and not drawn again.

    Errors: `UserError` for a prompt without tokens, or that leaves no room in the context.
    """
    config = replace(config or SampleConfig(), **settings)
    requests = _requests(model, tokenizer, prompts, config)
    about: dict[str, Any] = {"part": part, "label": label, "how": how}
    about |= {"seed": config.seed, "batch_size": config.batch_size}
    rival = policy.to_dict().get("policy")  # of a plain decoding: None
    drawn = draw(model, tokenizer, requests, policy, **about)
    stops = stop_ids(model.generation_config, tokenizer)
    done = [
        _row(tokenizer, stops, prompts[place // config.n], request, ids, rival)
        for place, (request, ids) in enumerate(zip(requests, drawn, strict=True))
    ]
    if ended := at_context(model, done):
        context = context_length(model)
        line = f"{ended} of {len(done)} answers end unfinished at the model's context of {context}"
        print(line, file=sys.stderr)
    return done


def at_context(model: Any, rows: Sequence[dict]) -> int:
    """How many samples are unfinished because the model's context ended."""
    context = context_length(model)
    lengths = (len(r["prompt_ids"]) + len(r["completion_ids"]) for r in rows if not r["finished"])
    return sum(length == context for length in lengths)


def sample_to_file(
    path: Path,
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    policy: Policy,
    config: SampleConfig | None = None,
    *,
    how: str | None = None,
    **settings: Any,
) -> list[dict]:
    """`sample` into a JSON Lines file that appears only when it is complete; resumes, and reuses.

    The caller has checked that the settings are those of the file (`files.record.begin`).
    """
    if path.exists():
        return read_jsonl(path)
    part = path.with_name(path.name + ".part")
    about: dict[str, Any] = {"part": part, "label": path.stem, "how": how}
    rows = sample(model, tokenizer, prompts, policy, config, **about, **settings)
    write_jsonl(path, rows)
    part.unlink()
    return rows


def _requests(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], config: SampleConfig
) -> list[Request]:
    context, vocabulary = context_length(model) or sys.maxsize, input_rows(model)
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


def _row(
    tokenizer: Any,
    stops: set[int],
    prompt: Prompt,
    request: Request,
    completion_ids: list[int],
    rival: str | None,
) -> dict:
    asked = {"messages": prompt.messages} if prompt.messages else {"prompt": prompt.text}
    row = {
        "sample_id": f"{prompt.problem_id}/{request.index}",
        "problem_id": prompt.problem_id,
        **asked,
        "completion": completion_text(tokenizer, request.ids, completion_ids),
        "prompt_ids": request.ids,
        "completion_ids": completion_ids,
        "style": "chat" if prompt.messages else "raw",
        "finished": finished(request, completion_ids, stops),
        **({} if rival is None else {"policy": rival}),
    }
    # A prompt file may hold answers of its own under these names.
    return row | {key: value for key, value in prompt.meta.items() if key not in row}


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
