"""How servers are asked for tokens, each in its own words, and what they answer.

Every decoding field is sent always: what is left out, a server fills with the model's defaults
(vLLM, SGLang) or its own (llama.cpp: T=0.8, k=40, p=0.95, min-p 0.05).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError


class Reply(NamedTuple):
    """One answer: `ids` None of a server that gives text alone; `reason`: stop, length, or other.

    `matched`: the stop token, of a server that may leave it out of the ids. `support`: what was
    left to be drawn as its first token, where the engine tells that.
    """

    ids: list[int] | None
    text: str
    reason: str
    matched: int | None = None
    support: list[int] | None = None


@dataclass(frozen=True)
class Asked:
    """What is asked of a server: `n` answers; `seed` None: by its own random numbers."""

    model: str
    ids: Sequence[int]
    room: int
    decoding: Decoding
    seed: int | None
    stops: Sequence[int]
    strings: Sequence[str] = ()
    n: int = 1

    @property
    def temperature(self) -> float:
        return 0.0 if self.decoding.is_greedy else self.decoding.temperature


class Completions:
    """OpenAI's completions, as vLLM has them: ids in, and with `return_token_ids` ids out."""

    path: ClassVar[str] = "/v1/completions"
    version_path: ClassVar[str] = "/version"
    order: ClassVar[str] = Decoding.order
    seed_bits: ClassVar[int] = 63
    several: ClassVar[bool] = True  # `n` answers have seeds of their own

    def body(self, asked: Asked) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "model": asked.model,
            "prompt": list(asked.ids),
            "n": asked.n,
            "max_tokens": asked.room,
            "min_tokens": 0,
            "temperature": asked.temperature,
            "top_k": asked.decoding.top_k,
            "top_p": asked.decoding.top_p,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop": list(asked.strings),
            "stop_token_ids": list(asked.stops),
            "include_stop_str_in_output": True,
            "ignore_eos": False,
            "skip_special_tokens": True,
            "add_special_tokens": False,
            "echo": False,
            "stream": False,
            "return_token_ids": True,
        }
        return fields if asked.seed is None else {**fields, "seed": asked.seed}

    def replies(self, content: dict[str, Any]) -> list[Reply]:
        choices = sorted(content["choices"], key=lambda each: each.get("index", 0))
        return [self._reply(choice) for choice in choices]

    def _reply(self, choice: dict[str, Any]) -> Reply:
        matched = choice.get("stop_reason")
        ids, text = choice.get("token_ids"), choice.get("text") or ""
        return Reply(ids, text, choice["finish_reason"], token_id(matched))

    def version(self, content: dict[str, Any]) -> str:
        return str(content.get("version", "?"))


class SGLang:
    """SGLang's own endpoint. Its top-k and top-p are joint: the nucleus is over all tokens."""

    path: ClassVar[str] = "/generate"
    version_path: ClassVar[str] = "/get_server_info"
    order: ClassVar[str] = "temperature, top_k and top_p of the same distribution"
    seed_bits: ClassVar[int] = 31
    several: ClassVar[bool] = False

    def body(self, asked: Asked) -> dict[str, Any]:
        fields = {
            "n": asked.n,
            "max_new_tokens": asked.room,
            "min_new_tokens": 0,
            "temperature": asked.temperature,
            "top_k": asked.decoding.top_k or -1,
            "top_p": asked.decoding.top_p,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop": list(asked.strings),
            "stop_token_ids": list(asked.stops),
            "ignore_eos": False,
            "skip_special_tokens": True,
            "no_stop_trim": True,
        }
        seeded = {} if asked.seed is None else {"sampling_seed": asked.seed}
        return {
            "input_ids": list(asked.ids),
            "sampling_params": {**fields, **seeded},
            "stream": False,
        }

    def replies(self, content: Any) -> list[Reply]:
        return [self._reply(each) for each in (content if isinstance(content, list) else [content])]

    def _reply(self, content: dict[str, Any]) -> Reply:
        reason = content["meta_info"]["finish_reason"]
        matched = reason.get("matched")
        ids, text = content.get("output_ids"), content.get("text") or ""
        return Reply(ids, text, reason["type"], token_id(matched))

    def version(self, content: dict[str, Any]) -> str:
        return str(content.get("version", "?"))


class LlamaCpp:
    """llama.cpp's own endpoint; the order of its samplers is asked for. It knows its own stops."""

    path: ClassVar[str] = "/completion"
    version_path: ClassVar[str] = "/props"
    order: ClassVar[str] = Decoding.order
    seed_bits: ClassVar[int] = 31
    several: ClassVar[bool] = False

    def body(self, asked: Asked) -> dict[str, Any]:
        fields = {
            "prompt": list(asked.ids),
            "n_predict": asked.room,
            "temperature": asked.temperature,
            "top_k": asked.decoding.top_k,
            "top_p": asked.decoding.top_p,
            "min_p": 0.0,
            "typical_p": 1.0,
            "top_n_sigma": -1.0,
            "xtc_probability": 0.0,
            "dynatemp_range": 0.0,
            "mirostat": 0,
            "repeat_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "dry_multiplier": 0.0,
            "samplers": ["temperature", "top_k", "top_p"],
            "stop": list(asked.strings),
            "ignore_eos": False,
            "return_tokens": True,
            "stream": False,
        }
        return {**fields, "seed": -1 if asked.seed is None else asked.seed}

    def replies(self, content: dict[str, Any]) -> list[Reply]:
        ends = {"eos": "stop", "word": "stop", "limit": "length"}
        reason = ends.get(content.get("stop_type", ""), "other")
        return [Reply(content.get("tokens"), content.get("content") or "", reason)]

    def version(self, content: dict[str, Any]) -> str:
        return str(content.get("build_info", "?"))


Dialect = Completions | SGLang | LlamaCpp
DIALECTS: dict[str, type[Dialect]] = {
    "vllm": Completions,
    "sglang": SGLang,
    "llamacpp": LlamaCpp,
}


def dialect_of(models: dict[str, Any]) -> tuple[str, Dialect]:
    """By who owns the models in the answer to /v1/models; others are asked as vLLM is."""
    owners = {str(each.get("owned_by", "")).lower() for each in models.get("data", [])}
    name = next((owner for owner in sorted(owners) if owner in DIALECTS), "completions")
    return name, DIALECTS.get(name, Completions)()


def plain_decoding(policy: Any, engine: str) -> Decoding:
    """The policy if it is a plain decoding: servers know no other. `UserError` for a rival."""
    if not isinstance(policy, Decoding):
        raise UserError(
            f"{policy}: only with --engine hf or vllm; {engine} has temperature, top-k, top-p"
        )
    return policy


def token_id(value: Any) -> int | None:
    """What ended an answer, if that was a token and no string."""
    return value if type(value) is int else None
