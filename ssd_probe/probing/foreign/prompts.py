"""vLLM's `prompt_logprobs`: each token of a given text after those before it.

A list with one entry a prompt token, the first null: {id: {"logprob", "rank", "decoded_token"}} of
the token that stands there, then of ranks 1 to k, of which it may be one. Tokens of a prompt pass
no sampler: neither temperature nor truncation changes them.
"""

import math
from itertools import pairwise
from typing import Any

from ssd_probe.errors import UserError
from ssd_probe.probing.foreign.tokens import Position, Token, known


def scored(entries: list[Any], ids: list[int] | None, where: str) -> list[Position]:
    """The positions of a prompt from its second token on.

    ids: `prompt_token_ids`; without them the first token of an entry is the one that stands there,
    which is the order vLLM writes. Raises UserError "WHERE: ..." for what vLLM does not write.
    """
    if ids is not None and len(ids) != len(entries):
        raise UserError(
            f"{where}: {len(entries)} prompt_logprobs but {len(ids)} prompt_token_ids; they must "
            "be of one prompt"
        )
    if entries[0]:
        raise UserError(
            f"{where}: prompt_logprobs[0] is not null: the prompt's beginning is missing"
        )
    return [
        _position(entry, None if ids is None else ids[n], f"{where}: prompt_logprobs[{n}]")
        for n, entry in enumerate(entries[1:], 1)
    ]


def _position(entry: Any, own_id: int | None, where: str) -> Position:
    if not entry:
        raise UserError(f"{where} tells no token; only the first may be null")
    tokens = [_token(name, told) for name, told in entry.items()]
    at = 0 if own_id is None else next((i for i, t in enumerate(tokens) if t.id == own_id), None)
    if at is None:
        raise UserError(f"{where} lacks token {own_id}, which prompt_token_ids has there")
    own, rest = tokens[at], tokens[:at] + tokens[at + 1 :]
    if own_id is not None:
        rest.sort(key=lambda token: token.rank or 0)
    _require_ranks(own, rest, where, by_ids=own_id is not None)
    by_rank = sorted([own, *rest], key=lambda token: token.rank or 0)
    values = [-math.inf if token.logprob is None else token.logprob for token in by_rank]
    if any(below > above for above, below in pairwise(values)):
        raise UserError(f"{where}: a token is likelier than one of a better rank")
    leading = by_rank if (own.rank or 0) <= len(by_rank) else rest
    return Position(own, [token for token in leading if token.logprob is not None])


def _token(name: str, told: Any) -> Token:
    """By its id where the server has no tokenizer, as vLLM names such tokens elsewhere."""
    text = told.get("decoded_token")
    text = f"token_id:{int(name)}" if text is None else text
    return Token(text, int(name), known(told["logprob"]), told.get("rank"))


def _require_ranks(own: Token, rest: list[Token], where: str, by_ids: bool) -> None:
    """Of n tokens the others have ranks 1 to n without own's, or 1 to n - 1 if own's is beyond."""
    ranks = [token.rank for token in rest]
    expected = [r for r in range(1, len(rest) + 2) if r != own.rank][: len(rest)]
    if not isinstance(own.rank, int) or own.rank < 1 or ranks != expected:
        order = "" if by_ids else ", in vLLM's order (with return_token_ids any order is read)"
        raise UserError(
            f"{where}: ranks {own.rank} and {str(ranks)[:40]} are not those of the prompt's token "
            f"and of 1 to k, each once{order}"
        )
