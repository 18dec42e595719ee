"""Which engine draws, and what a person may say to it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssd_probe.core.requests import Engine
from ssd_probe.errors import UserError
from ssd_probe.models.identity import Checkpoint

ENGINES = ("hf", "vllm", "server")
KEY = "SSD_PROBE_API_KEY"  # the environment variable with a server's key: never in a file or a log


@dataclass(frozen=True)
class Choice:
    """An engine by name, and its own settings; `UserError` for one that is another engine's.

    `urls`, `served` (the model's name there), `allow_text`, `stall` (seconds without an answer): of
    `server`. `arguments`: of `vllm`, "NAME=VALUE" for its `LLM`.
    """

    engine: str = "hf"
    urls: tuple[str, ...] = ()
    served: str | None = None
    allow_text: bool = False
    arguments: tuple[str, ...] = ()
    stall: float | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UserError(f"engine {self.engine!r}: must be one of {', '.join(ENGINES)}")
        own: dict[str, Any] = {"--url": self.urls, "--served-model": self.served}
        own |= {"--allow-text": self.allow_text, "--stall": self.stall}
        if self.engine == "server" and not self.urls:
            raise UserError("--engine server: give the server's address, --url http://HOST:PORT")
        if self.engine != "server" and (given := [flag for flag, value in own.items() if value]):
            raise UserError(f"{given[0]}: only with --engine server")
        if self.engine != "vllm" and self.arguments:
            raise UserError("--engine-arg: only with --engine vllm")


def serve_all(engine: str, arguments: Sequence[str] = ()) -> Choice:
    """An engine that can load one checkpoint after another; `UserError` for any other."""
    if engine == "server":
        raise UserError(
            "engine server: it serves one model, and students are drawn from too; "
            "choose hf or vllm, or draw with `ssd-probe sample --engine server`"
        )
    return Choice(engine, arguments=tuple(arguments))


def engine_of(choice: Choice, checkpoint: Checkpoint, batch_size: int = 64) -> Engine:
    """The engine, not yet at work; `batch_size` answers at a time, of each server."""
    if choice.engine == "hf":
        from ssd_probe.engines.hf import Hf

        return Hf(checkpoint, batch_size)
    if (given := checkpoint.loading.recorded()) or checkpoint.device:
        flag = next(iter(given.get("loading", {"device": None})))
        raise UserError(f"--{flag.replace('_', '-')}: only with --engine hf")
    if choice.engine == "server":
        from ssd_probe.engines.server import Server

        about: dict[str, Any] = {"served": choice.served, "allow_text": choice.allow_text}
        about["stall"] = choice.stall
        return Server(checkpoint, choice.urls, key=os.environ.get(KEY), window=batch_size, **about)
    from ssd_probe.engines.vllm import Vllm

    return Vllm(checkpoint, choice.arguments, window=batch_size)
