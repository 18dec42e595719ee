"""Any OpenAI-compatible server by token ids, or several that share the work.

Each server has a window of requests under way. A request that failed for a while (429, 5xx, a
time-out, a dropped connection) is asked again with the same seed, by whichever server is free.
"""

import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from ssd_probe.core.requests import Answers, Drawn, Request
from ssd_probe.core.streams import seed_of
from ssd_probe.decoding import Decoding, Policy
from ssd_probe.engines.dialects import Asked, Reply, plain_decoding
from ssd_probe.engines.link import Link, Transient, pause
from ssd_probe.engines.peer import Peer
from ssd_probe.engines.replies import drawn_of
from ssd_probe.errors import Resumable
from ssd_probe.models.identity import Checkpoint
from ssd_probe.models.limits import Limits

STALL = 1800.0  # seconds without any answer, after which a run stops, and for each token that an
A_TOKEN = 0.1  # answer may have so many more: 65,536 at 20 a second take nearly an hour
DOWN = 600.0  # the same while no server can be reached
MANY = 128  # answers of one request, where a server gives each its own seed


class Server:
    """The engine of servers at `urls`; `window`: requests under way at each.

    `served`: the model's name there. `allow_text`: take text where there are no ids. `stall`,
    `down`: seconds without an answer (by default so many as the longest may take, `STALL` and
    `A_TOKEN` for each of its tokens), and without a server, after which it is `Resumable`.
    """

    name = "server"

    def __init__(
        self,
        checkpoint: Checkpoint,
        urls: Sequence[str],
        *,
        key: str | None = None,
        served: str | None = None,
        allow_text: bool = False,
        window: int = 64,
        stall: float | None = None,
        down: float = DOWN,
    ) -> None:
        self.checkpoint, self.allow_text, self.window = checkpoint, allow_text, window
        self.stall, self.down = stall, down
        self.peers = [
            Peer(Link(url, key, window, stall or STALL), checkpoint, served, allow_text)
            for url in dict.fromkeys(urls)
        ]
        self.retried: Counter[str] = Counter()

    @property
    def limits(self) -> Limits:
        return self.checkpoint.limits

    def settings(self) -> dict[str, Any]:
        return {"engine": self.name, **({"allow_text": True} if self.allow_text else {})}

    def about(self, policy: Policy) -> dict[str, Any]:
        """Errors: `UserError`, `Resumable` where a server is another's, or cannot be reached."""
        plain_decoding(policy, self.name)
        for peer in self.peers:
            peer.require()
        versions = sorted({peer.version for peer in self.peers})
        orders = sorted({peer.dialect.order for peer in self.peers})
        version, order = ", ".join(versions), "; ".join(orders)
        return {"engine": self.name, "engine_version": version, "order": order}

    def found(self) -> dict[str, Any]:
        text = any(peer.text_only for peer in self.peers)
        urls = [peer.link.url for peer in self.peers]
        return {"servers": urls, "retried": dict(self.retried), "ids_from_text": text}

    def answers(self, requests: Mapping[int, Request], policy: Policy, seed: int | None) -> Answers:
        decoding = plain_decoding(policy, self.name)
        for peer in self.peers:
            peer.require()
        self._say_order(decoding)
        stops = sorted(self.limits.stops)

        def asked(place: int, peer: Peer) -> Asked:
            request, bits = requests[place], peer.dialect.seed_bits
            own = None if seed is None else seed_of(seed, request.name, request.index, bits)
            about: dict[str, Any] = {"stops": stops, "strings": request.stop}
            return Asked(peer.model, request.ids, request.room, decoding, own, **about)

        queue = self._queue(asked, max(r.room for r in requests.values()) if requests else 0)
        try:
            for place, replies in queue.run(requests):
                yield {place: self._drawn(requests[place], replies[0])}
        finally:
            queue.stop()

    def draws(self, ids: Sequence[int], count: int, policy: Policy, seed: int | None) -> list[int]:
        """`count` first tokens after `ids`, many a request where each has its own seed."""
        decoding, most = plain_decoding(policy, self.name), MANY
        for peer in self.peers:
            peer.require()
            most = most if peer.dialect.several else 1
        sizes = [min(most, count - start) for start in range(0, count, most)]
        stops = sorted(self.limits.stops)

        def asked(place: int, peer: Peer) -> Asked:
            own = None if seed is None else seed_of(seed, "draws", place, peer.dialect.seed_bits)
            return Asked(peer.model, ids, 1, decoding, own, stops, n=sizes[place])

        request = Request("draws", 0, ids, 1)
        queue = self._queue(asked, 1)
        try:
            found = dict(queue.run({place: request for place in range(len(sizes))}))
            given = (reply for place in range(len(sizes)) for reply in found[place])
            return [self._drawn(request, reply).ids[0] for reply in given]
        finally:
            queue.stop()

    def _queue(self, asked: Any, longest: int) -> "Queue":
        """For answers of at most `longest` tokens.

        A request may wait for others before it, so that it has twice the time in which some answer
        must come.
        """
        stall = STALL + A_TOKEN * longest if self.stall is None else self.stall
        for peer in self.peers:
            peer.link.timeout = 2 * stall
        return Queue(self.peers, asked, self, stall)

    def support(self, ids: Sequence[int], policy: Policy) -> None:
        """It does not tell."""

    def _say_order(self, decoding: Decoding) -> None:
        """On stderr, where a server is known for another order that these settings show."""
        other = {p.dialect.order for p in self.peers} - {decoding.order}
        if other and decoding.top_k and decoding.top_p < 1:
            line = f"truncated in another order than declared: {', '.join(other)}; see"
            print(f"{line} `ssd-probe doctor --engine server`", file=sys.stderr)

    def _drawn(self, request: Request, reply: Reply) -> Drawn:
        return drawn_of(request, reply, self.limits, self.checkpoint.tokenizer)

    def close(self) -> None:
        for peer in self.peers:
            peer.link.close()


class Queue:
    """Places to ask for, shared out among peers' windows; each is answered once."""

    def __init__(self, peers: Sequence[Peer], asked: Any, engine: Server, stall: float) -> None:
        self.peers, self.asked, self.engine, self.stall = peers, asked, engine, stall
        self.again: deque[tuple[int, int]] = deque()  # places that failed, and how often
        self.lock, self.stopped = threading.Lock(), threading.Event()
        self.done: SimpleQueue[tuple[int, list[Reply] | BaseException]] = SimpleQueue()
        self.trouble = ""

    def run(self, places: Mapping[int, Any]) -> Any:
        """(place, replies) as they come. `Resumable` when none has come for too long."""
        self.fresh = iter(places)
        self.left = len(places)
        for peer in self.peers:
            for _ in range(min(self.engine.window, len(places))):
                threading.Thread(target=self._work, args=(peer,), daemon=True).start()
        while self.left:
            place, result = self._next()
            if isinstance(result, BaseException):
                raise result
            self.left -= 1
            yield place, result

    def _next(self) -> tuple[int, list[Reply] | BaseException]:
        start = time.monotonic()
        while True:
            try:
                return self.done.get(timeout=0.2)
            except Empty:
                waited = time.monotonic() - start
            down = all(peer.down for peer in self.peers)
            if waited > self.stall or (down and waited > self.engine.down):
                raise Resumable(
                    f"no answer from any server for {waited:.0f} s ({self.trouble or 'no error'}); "
                    "what came is kept, and the same command goes on"
                )

    def _work(self, peer: Peer) -> None:
        """One of a peer's requests under way: asks, and asks again, until nothing is left."""
        failures = 0
        while not self.stopped.is_set() and (taken := self._take()) is not None:
            place, tries = taken
            if place < 0:  # others are under way, and may fail
                self.stopped.wait(0.05)
                continue
            try:
                self.done.put((place, peer.ask(self.asked(place, peer))))
                failures = 0
            except Transient as trouble:
                failures += 1
                self.trouble = str(trouble)
                with self.lock:
                    self.engine.retried[str(trouble)[:120]] += 1
                    self.again.append((place, tries + 1))
                self.stopped.wait(pause(failures, trouble.wait))
            except BaseException as error:
                self.done.put((place, error))
                return

    def _take(self) -> tuple[int, int] | None:
        with self.lock:
            if self.again:
                return self.again.popleft()
            place = next(self.fresh, None)
            if place is not None:
                return place, 0
            return (-1, 0) if self.left else None

    def stop(self) -> None:
        self.stopped.set()
