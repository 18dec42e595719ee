"""What another engine answered, as every engine has it, or why it cannot be right."""

from typing import Any

from ssd_probe.core.requests import LENGTH, STRING, TOKEN, Drawn, Request
from ssd_probe.core.running import Answer
from ssd_probe.engines.dialects import Reply
from ssd_probe.errors import UserError
from ssd_probe.models.limits import Limits
from ssd_probe.models.tokens import continuation_ids


def drawn_of(request: Request, reply: Reply, limits: Limits, tokenizer: Any) -> Drawn:
    """The new ids up to an end, as `core.running` cuts them.

    Errors: `UserError` for ids that the model does not know, and an answer that ended where none
    does: at the engine's own limit, or at a token that is no stop of this model.
    """
    if reply.ids is None:
        return _of_text(request, reply, tokenizer)
    name, ids = f"{request.name}/{request.index}", list(reply.ids)
    if reply.matched in limits.stops and ids[-1:] != [reply.matched]:
        ids.append(reply.matched)
    if not all(type(i) is int and 0 <= i < limits.vocabulary for i in ids):
        raise UserError(f"{name}: the engine's ids are not of this model's vocabulary")
    answer = Answer(0, list(request.ids), request.room, request.stop, request.begun)
    ended = answer.extend(ids[: request.room], limits.stops, tokenizer)
    if ended or (request.stop and reply.reason == "stop"):
        return Drawn(answer.new)
    how = "by its own limit; is its context shorter than the model's?"
    if reply.reason == "stop":
        how = f"at token {ids[-1:]}, which ends no answer of this model; is another one there?"
    raise UserError(f"{name}: the engine ended after {len(ids)} of {request.room} tokens, {how}")


def _of_text(request: Request, reply: Reply, tokenizer: Any) -> Drawn:
    """Tokenised again; a stop token, which is no text, is put behind."""
    ids = continuation_ids(tokenizer, list(request.ids), reply.text)[: request.room]
    if reply.reason == "length":  # tokenised again there may be fewer
        return Drawn(ids, LENGTH)
    if request.stop:
        return Drawn(ids, STRING)
    return Drawn([*ids[: request.room - 1], tokenizer.eos_token_id], TOKEN)
