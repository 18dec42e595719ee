"""Answers to draw, whatever draws them: what is asked, what came of it, and the file that keeps it.

A *source* gives answers as they end: `{request's place: Drawn}`, several at a time, in any order.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tqdm import tqdm

from ssd_probe.decoding import Policy
from ssd_probe.files.writing import strict_json
from ssd_probe.models.limits import Limits

TOKEN, STRING, LENGTH, CONTEXT = "stop token", "stop string", "length", "context"
FINISHED = (TOKEN, STRING)  # of these an answer came to its end
Key = tuple[str, int]


@dataclass(frozen=True)
class Request:
    """One answer to draw. `name` and `index` (with the seed) name its stream of random numbers.

    `ids`: all that the model sees before, the last `begun` of them of the answer already; `room`:
    how many new tokens at most; `stop`: strings that end it, of which it then holds nothing.
    """

    name: str
    index: int
    ids: Sequence[int]
    room: int
    stop: tuple[str, ...] = ()
    begun: int = 0

    @property
    def key(self) -> Key:
        """What its answer is kept under."""
        return self.name, self.index


class Drawn(NamedTuple):
    """An answer's new ids; `reason`: why it ended, where the ids do not say it (`stop_reason`)."""

    ids: list[int]
    reason: str | None = None


Answers = Iterator[dict[int, Drawn]]
Source = Callable[[Mapping[int, Request]], Answers]


class Engine(Protocol):
    """What draws answers: token ids in, token ids out. One file each, in `engines`.

    `about`: `engine`, `engine_version` and `order` (of temperature and truncation), for every row.
    `settings`: what its samples depend on beyond the decoding; recorded and compared. `found`: what
    is worth keeping once all is drawn.
    """

    @property
    def limits(self) -> Limits: ...

    def about(self, policy: Policy) -> dict[str, Any]: ...

    def settings(self) -> dict[str, Any]: ...

    def found(self) -> dict[str, Any]: ...

    def answers(self, requests: Mapping[int, Request], policy: Policy, seed: int | None) -> Answers:
        """A `Source`; with `seed` None the engine's random numbers are its own."""
        ...

    def draws(self, ids: Sequence[int], count: int, policy: Policy, seed: int | None) -> list[int]:
        """`count` first tokens after the same ids, cheaply: for `engines.conformance`."""
        ...

    def support(self, ids: Sequence[int], policy: Policy) -> Sequence[int] | None:
        """The tokens left to be drawn after `ids`, in the engine's own words; None: it has none."""
        ...

    def close(self) -> None:
        """End connections and processes."""


def collect(
    source: Source,
    requests: Sequence[Request],
    *,
    part: Path | None = None,
    label: str = "sampling",
    progress: bool = True,
) -> list[Drawn]:
    """The answer to each request, in their order, drawn or, of those in the file `part`, read.

    What is drawn goes into `part` as it comes: `{"problem_id", "index", "ids"}` a line, and a
    `reason` where the ids do not say it. The caller
    sees to it that the file is of the same model, decoding and seed, and deletes it.
    """
    kept = read_part(part)
    drawn = {place: kept[r.key] for place, r in enumerate(requests) if r.key in kept}
    left = {place: r for place, r in enumerate(requests) if place not in drawn}
    about: dict[str, Any] = {"desc": label, "unit": "answer", "initial": len(drawn)}
    about["disable"] = None if progress else True
    tokens, start = 0, time.monotonic()
    with tqdm(total=len(requests), **about) as bar:
        if left:
            with closing(source(left)) as answers:  # type: ignore[type-var]
                for new in answers:
                    append_part(part, {requests[place].key: each for place, each in new.items()})
                    drawn |= new
                    tokens += sum(len(each.ids) for each in new.values())
                    rate = tokens / max(1e-9, time.monotonic() - start)
                    bar.set_postfix({"tokens/s": f"{rate:.0f}"}, False)
                    bar.update(len(new))
    return [drawn[place] for place in range(len(requests))]


def append_part(part: Path | None, drawn: Mapping[Key, Drawn]) -> None:
    if part is None or not drawn:
        return
    part.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {"problem_id": name, "index": index, "ids": each.ids}
        | ({} if each.reason is None else {"reason": each.reason})
        for (name, index), each in drawn.items()
    ]
    with part.open("a", encoding="utf-8") as file:
        file.writelines(strict_json(line) + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())


def read_part(part: Path | None, mend: bool = True) -> dict[Key, Drawn]:
    """What an interrupted run drew; a last line that the interruption cut short is dropped.

    `mend`: from the file as well, so that it can be gone on with; only who writes it may.
    """
    if part is None or not part.exists():
        return {}
    whole, newline, torn = part.read_text(encoding="utf-8").rpartition("\n")
    if torn and mend:
        part.write_text(whole + newline, encoding="utf-8")
    entries = (json.loads(line) for line in whole.split("\n") if line)
    return {
        (e["problem_id"], e["index"]): Drawn(e["ids"], e.get("reason"))
        for e in entries
        if "index" in e
    }


def stop_reason(request: Request, drawn: Drawn, limits: Limits) -> str:
    """Why an answer ended: TOKEN, STRING, LENGTH or CONTEXT (the model's was full)."""
    ids = drawn.ids
    if drawn.reason is not None:
        return drawn.reason
    if ids and ids[-1] in limits.stops:
        return TOKEN
    if len(ids) < request.room:
        return STRING
    return CONTEXT if len(request.ids) + len(ids) == limits.context else LENGTH
