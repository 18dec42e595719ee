"""Where text and token ids meet: prompts and texts to ids, ids to the text they stand for.

Text is text: the name of a special token in it is its letters, and no token. A rendered prompt,
which begins with a special token, is the exception. And what is asked is said in each call,
because a tokenizer's files have opinions of their own (clean-up, prefix spaces, an end token).
"""

import inspect
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase as Tokenizer

from ssd_probe.errors import UserError
from ssd_probe.problems.prompts import Prompt
from ssd_probe.problems.rows import plain_messages


def decode(tokenizer: Tokenizer, ids: Sequence[int], special: bool = True) -> str:
    """The text of ids as it stands, with or without special tokens; nothing is cleaned up."""
    return str(
        tokenizer.decode(
            _known(tokenizer, ids),
            skip_special_tokens=not special,
            clean_up_tokenization_spaces=False,
        )
    )


def _known(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """The ids without those of no token, the rows that pad a vocabulary: slow tokenizers (ByT5)
    fail at them, fast ones leave them out."""
    if tokenizer.is_fast:
        return list(ids)
    end = max(len(tokenizer), *(1 + i for i in tokenizer.added_tokens_decoder), 0)
    return [i for i in ids if i < end]


def completion_text(
    tokenizer: Tokenizer, prompt_ids: Sequence[int], ids: Sequence[int], special: bool = False
) -> str:
    """What prompt and completion decode to beyond the prompt.

    A completion alone loses its first space where a decoder takes that for the tokenizer's own
    (Llama 2, Mistral), and a character that its prompt begins.
    """
    before = decode(tokenizer, prompt_ids, special)
    whole = decode(tokenizer, [*prompt_ids, *ids], special)
    return whole[len(os.path.commonprefix([before, whole])) :]


def before_stop(
    tokenizer: Tokenizer, prompt_ids: Sequence[int], ids: Sequence[int], stops: Sequence[str]
) -> int | None:
    """How many of a completion's ids stand before the first of the strings; None without any.

    The first is the one that ends first, so that more ids behind it change nothing. A token that
    holds some of it and some text before it goes too, so that the ids that are left decode to what
    is kept.
    """
    text = completion_text(tokenizer, prompt_ids, ids)
    found = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    if not found:
        return None
    before = text[: min(found)[1]]
    counts = range(len(ids) - 1, 0, -1)
    kept = (n for n in counts if before.startswith(completion_text(tokenizer, prompt_ids, ids[:n])))
    return next(kept, 0)


def special_ids(tokenizer: Tokenizer) -> set[int]:
    """Ids of the tokens that are no text: begin, end, padding, turns of a chat."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return set(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}


def text_ids(tokenizer: Tokenizer, text: str, special: bool = False) -> list[int]:
    """The ids of a text, nothing added around it; with `special` its special tokens are such."""
    named = {} if _first_special(tokenizer, text) is None else {"split_special_tokens": not special}
    return list(tokenizer(text, add_special_tokens=False, verbose=False, **named)["input_ids"])


def document_ids(tokenizer: Tokenizer, text: str, special: bool = False) -> list[int]:
    """The ids of a text from its beginning, after the BOS if the tokenizer adds one.

    There is just one BOS, also where the text (with `special`) has its own, and no end token.
    """
    ids, opening = text_ids(tokenizer, text, special), _opening(tokenizer)
    return ids if ids[: len(opening)] == opening else opening + ids


def continuation_ids(
    tokenizer: Tokenizer, prompt_ids: Sequence[int], text: str, special: bool = False
) -> list[int]:
    """The ids of a text that goes on from a prompt, so that it is what `completion_text` gives.

    A tokenizer may put a space before all it is given; then the text is tokenised after a line's
    end. One that cannot give the text at all (it knows no such letters) does it as well as it can.
    """
    alone = text_ids(tokenizer, text, special)
    if completion_text(tokenizer, prompt_ids, alone, special=True) == text:
        return alone
    for anchor in ("\n", "a"):
        head, whole = (text_ids(tokenizer, each, special) for each in (anchor, anchor + text))
        ids = whole[len(head) :]
        same = whole[: len(head)] == head
        if same and completion_text(tokenizer, prompt_ids, ids, special=True) == text:
            return ids
    return alone


def token_ids(row: dict, key: str, vocabulary: int) -> list[int]:
    """A sample's saved ids; `UserError` where they are none, or not of this vocabulary."""
    name, ids = row.get("sample_id", "?"), row.get(key)
    if ids is None:
        raise UserError(f"sample {name}: no token ids; make samples with `ssd-probe sample`")
    if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < vocabulary for i in ids):
        raise UserError(
            f"sample {name}: `{key}` must be a list of token ids from 0 to below {vocabulary}, the "
            "model's vocabulary; were they made with another model's tokenizer?"
        )
    return ids


def _opening(tokenizer: Tokenizer) -> list[int]:
    """What the tokenizer puts before a text: its BOS, or nothing."""
    plain, whole = text_ids(tokenizer, "a"), list(tokenizer("a")["input_ids"])
    starts = range(len(whole) - len(plain) + 1)
    return whole[: next((i for i in starts if whole[i : i + len(plain)] == plain), 0)]


def _names(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Of the special tokens, as they stand in a rendered prompt."""
    return _names_of(tokenizer, len(tokenizer))


@lru_cache(maxsize=4)
def _names_of(tokenizer: Tokenizer, tokens: int) -> tuple[str, ...]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    named = [token.content for token in added.values() if token.special]
    return *named, *tokenizer.all_special_tokens


def _first_special(tokenizer: Tokenizer, text: str) -> str | None:
    """The name of a special token that the text holds, if any."""
    return next((name for name in _names(tokenizer) if name in text), None)


def render_prompt(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """The token ids the model sees before its first own token.

    Messages go through the chat template, ending where the assistant's turn begins. Text is
    tokenised as it is, after the tokenizer's own BOS if it adds one; text that begins with a
    special token has been rendered, and all its special tokens are such. Raises `UserError` for
    messages without a chat template, or that the template refuses.
    """
    if prompt.messages is None:
        text = prompt.text or ""
        return document_ids(tokenizer, text, special=text.startswith(_names(tokenizer)))
    if not tokenizer.chat_template:
        raise UserError(
            f"{tokenizer.name_or_path}: no chat template (chat_template.jinja, or `chat_template` "
            "in tokenizer_config.json); give a `prompt` string instead of messages, or --style raw"
        )
    messages = plain_messages(prompt.messages, prompt.problem_id)
    sanitised = _sanitised(tokenizer, prompt, messages)
    try:
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False, **sanitised
        )
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{prompt.problem_id}: the chat template refuses these messages ({reason})"
        ) from error
    return list(ids)


def turn_ends(tokenizer: Tokenizer) -> set[int]:
    """The special tokens that the chat template puts after an assistant's message; maybe none."""
    answer = "3141592653"  # which no token's name holds
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}]
    try:
        text = str(tokenizer.apply_chat_template(said, tokenize=False))
    except Exception:  # a template of another form
        return set()
    _, found, after = text.rpartition(answer)
    return {*text_ids(tokenizer, after, special=True)} & special_ids(tokenizer) if found else set()


def stop_ids(generation: Any, tokenizer: Tokenizer) -> set[int]:
    """The stop tokens of a generation config and a tokenizer; chat models often have several."""
    stops = generation.eos_token_id
    ids = set(stops) if isinstance(stops, list) else {stops}
    return {token for token in ids | {tokenizer.eos_token_id} if token is not None}


def _sanitised(tokenizer: Tokenizer, prompt: Prompt, messages: list[dict]) -> dict[str, Any]:
    """The argument that keeps special tokens in a message's text from being tokens."""
    texts = [str(message["content"]) for message in messages]
    name = next((name for text in texts if (name := _first_special(tokenizer, text))), None)
    if name is None:
        return {}
    known = inspect.signature(tokenizer.apply_chat_template).parameters
    if tokenizer.is_fast and "sanitize_control_tokens" in known:
        return {"sanitize_control_tokens": True}
    which = "this transformers" if tokenizer.is_fast else "a slow tokenizer such as this one"
    remedy = "install a newer one, or take it out" if tokenizer.is_fast else "take it out"
    raise UserError(
        f"{prompt.problem_id}: the text of a message holds the special token {name!r}, which "
        f"{which} would take for the token; {remedy}"
    )
