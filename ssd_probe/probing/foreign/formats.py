"""Answers of servers as JSON -> texts of positions with their leading tokens.

Read are, one JSON object a file or a line: OpenAI's and vLLM's chat completions and completions
(`logprobs`), vLLM's `prompt_logprobs`, OpenAI's batch output, llama.cpp's `/completion`
(`n_probs`), inspect's logs. Log probabilities must be those of the model, at T=1 and before
truncation: what says that it is not is refused.
"""

import json
import math
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ssd_probe.errors import UserError
from ssd_probe.probing.foreign.prompts import scored
from ssd_probe.probing.foreign.tokens import Position, Token, known

PROMPT, COMPLETION = "prompt", "completion"
_ID = re.compile(r"token_id:(\d+)")  # vLLM's --return-tokens-as-token-ids


class Answer(NamedTuple):
    """The positions of one answer, or of a prompt from its second token on."""

    sample_id: str
    problem_id: str
    positions: list[Position]
    segment: str = COMPLETION


class Source(NamedTuple):
    """What a file holds: its answers, which model they name, how many decimals its numbers have."""

    answers: list[Answer]
    models: list[str]
    decimals: int


def read_answers(path: Path) -> Source:
    """The answers of a file. Raises UserError "FILE: ..." for what is none of the formats."""
    decimals = _Decimals()
    answers: list[Answer] = []
    models: dict[str, None] = {}
    for where, content in _objects(path, decimals):
        try:
            for answer in _answers(content, where):
                answers.append(answer)
            if name := _model(content):
                models[name] = None
        except UserError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            reason = f"{type(error).__name__}: {error}"[:80]
            raise UserError(f"{where}: not what a server writes ({reason})") from None
    if not any(answer.positions for answer in answers):
        raise UserError(
            f"{path}: no log-probabilities; ask the server for logprobs and top_logprobs, or of a "
            "given text for prompt_logprobs"
        )
    return Source(answers, list(models), decimals.most)


class _Decimals:
    """Parses floats, and remembers with how many decimals the longest was written."""

    def __init__(self) -> None:
        self.most = 0

    def __call__(self, text: str) -> float:
        digits, _, exponent = text.lower().partition("e")
        decimals = len(digits.partition(".")[2]) - int(exponent or 0)
        self.most = max(self.most, decimals)
        return float(text)


def _objects(path: Path, decimals: _Decimals) -> Iterator[tuple[str, Any]]:
    """Every JSON object of the file, and where it is, in words."""
    if zipfile.is_zipfile(path):
        yield from _zipped(path, decimals)
        return
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(f"{path}: cannot be read ({reason})") from None
    try:
        yield str(path), json.loads(text, parse_float=decimals)
        return
    except ValueError:
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    for number, line in lines:
        try:
            yield f"{path}:{number}", json.loads(line, parse_float=decimals)
        except ValueError as error:
            raise UserError(
                f"{path}:{number}: not JSON ({error}); give JSON or JSON Lines"
            ) from None
    if not lines:
        raise UserError(f"{path}: the file is empty")


def _zipped(path: Path, decimals: _Decimals) -> Iterator[tuple[str, Any]]:
    """The samples of inspect's .eval, which is a zip of JSON files."""
    try:
        with zipfile.ZipFile(path) as log:
            names = sorted(n for n in log.namelist() if re.fullmatch(r"samples/[^/]+\.json", n))
            for name in ["header.json", *names]:
                content = json.loads(log.read(name), parse_float=decimals)
                yield f"{path}: {name}", {"samples": [content]} if name in names else content
    except (KeyError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: not read as inspect's log ({error}); `inspect log dump` makes JSON of it"
        ) from None


def _model(content: Any) -> str | None:
    found = content.get("model") or content.get("eval", {}).get("model")
    return found or (content.get("response") or {}).get("body", {}).get("model")


def _answers(content: Any, where: str) -> Iterator[Answer]:
    if "samples" in content:  # inspect
        for sample in content["samples"]:
            name, epoch = str(sample["id"]), sample.get("epoch", 1)
            yield from _choices(sample["output"], f"{name}#{epoch}", name, where)
    elif "response" in content:  # OpenAI's batches
        name = str(content.get("custom_id") or content.get("id") or where)
        yield from _choices((content["response"] or {}).get("body", {}), name, name, where)
    elif "completion_probabilities" in content:
        positions = [_llama(each, where) for each in content["completion_probabilities"]]
        yield Answer(where, where, positions)
    elif "choices" in content:
        name = str(content.get("id") or where)
        yield from _choices(content, name, name, where)
    elif "eval" not in content:
        raise UserError(
            f"{where}: no format that is known (choices, completion_probabilities, samples)"
        )


def _choices(output: Any, name: str, problem: str, where: str) -> Iterator[Answer]:
    choices = output.get("choices", [])
    names = [f"{name}/{i}" if len(choices) > 1 else name for i in range(len(choices))]
    last = None
    for sample, holder in [(name, output), *zip(names, choices, strict=True)]:
        told = holder.get("prompt_logprobs")
        if told and told != last:  # completions repeat it in each of n choices
            positions = scored(told, holder.get("prompt_token_ids"), where)
            yield Answer(sample, problem, positions, PROMPT)
            last = told
    for sample, choice in zip(names, choices, strict=True):
        positions = _positions(choice, where)
        if positions or last is None:
            yield Answer(sample, problem, positions)


def _positions(choice: Any, where: str) -> list[Position]:
    """Of the answer's own tokens; an echoed prompt counts as one where nothing else tells of it."""
    said = choice.get("logprobs") or {}
    if isinstance(said.get("content"), list):
        return [_chat(each) for each in said["content"]]
    if "tokens" not in said:
        return []
    positions = _completion(said, where)
    prompt = choice.get("prompt_logprobs")
    echoed = prompt and (said.get("top_logprobs") or [{}])[0] is None
    return positions[len(prompt) - 1 :] if echoed else positions


def _chat(each: Any) -> Position:
    own, told = _token(each), list(map(_token, each.get("top_logprobs") or []))
    return Position(own, _ranked(told, own if told[:1] == [own] else None))


def _llama(each: Any, where: str) -> Position:
    if "top_probs" in each:
        raise UserError(
            f"{where}: probabilities after sampling's truncation (post_sampling_probs); ask "
            "without it"
        )
    return _chat(each)


def _completion(said: Any, where: str) -> list[Position]:
    """Leading tokens by name: of ids with one name only one is told."""
    tops = said.get("top_logprobs") or [None] * len(said["tokens"])
    full = max((len(top) for top in tops if top), default=0)
    positions = []
    for text, logprob, top in zip(said["tokens"], said["token_logprobs"], tops, strict=True):
        if top is None:  # an echoed prompt's first token has none
            continue
        own, named = _named(text, logprob), [_named(name, value) for name, value in top.items()]
        has_ids = all(token.id is not None for token in named)
        positions.append(Position(own, _ranked(named, own), not has_ids and len(top) < full))
    return positions


def _token(each: Any) -> Token:
    found = _named(each["token"], each["logprob"])
    return found if each.get("id") is None else found._replace(id=int(each["id"]))


def _named(text: str, logprob: float | None) -> Token:
    named = _ID.fullmatch(text)
    return Token(text, int(named[1]) if named else None, known(logprob))


def _ranked(tokens: Iterable[Token], own: Token | None) -> list[Token]:
    """The likeliest first, without `own` where its rank is not shown.

    own: the token that stands there, where a server tells it whatever its rank, as vLLM does (first
    of all, and in place of the last) and completions do (beside the others). It is a leading one
    if it is likelier than another, or if what is told leaves no more mass than it has.
    """
    told = [token for token in tokens if token.logprob is not None]
    ordered = sorted(told, key=lambda token: -(token.logprob or 0.0))
    masses = [math.exp(token.logprob or 0.0) for token in ordered]
    if own in ordered[-1:] and masses[-1] < 1 - sum(masses):
        ordered.pop()
    return ordered
