"""A server of the bundled checkpoint in this process, in vLLM's words, which fails as it is told.

Its answers depend on the seed alone, so that whole runs can be compared.
"""

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import torch

from ssd_probe.core.drawing import draw
from ssd_probe.core.requests import Request
from ssd_probe.decoding import Decoding, Policy
from ssd_probe.engines.conformance import declared
from ssd_probe.models.checkpoints import load_model, load_tokenizer
from ssd_probe.models.tokens import completion_text, stop_ids, text_ids


class Order(Policy):
    """A decoding whose probabilities are by another order."""

    def __init__(self, decoding, probabilities):
        self.decoding, self.order = decoding, probabilities

    @property
    def is_greedy(self):
        return self.decoding.is_greedy

    def candidates(self, logits):
        every = torch.arange(logits.shape[-1]).expand(logits.shape)
        return every, self.order(logits, self.decoding).log()


class FakeServer:
    """`fault(number, body)`: what goes wrong with the completion of this number, from 0 on.

    None, "drop", "stall", "garbage", or a status. `names`: the models served. `ids`: whether token
    ids come with the text. `shift`: added to every id, as another tokenizer's. `order`: see
    `conformance`. `first`: (logits -> draws) only the first token, cheaply, for many draws.
    """

    def __init__(
        self, fault=None, names=("tiny",), ids=True, shift=0, order=declared, key=None, port=0
    ):
        self.model, self.tokenizer = load_model("tiny"), load_tokenizer("tiny")
        self.fault = fault or (lambda number, body: None)
        self.names, self.ids, self.shift, self.order, self.key = names, ids, shift, order, key
        self.bodies, self.port, self.lock = [], port, threading.Lock()
        self.answered = Counter()
        self.logits = {}
        self.released = threading.Event()
        self.http = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"server_": self})
        ThreadingHTTPServer.request_queue_size = 128
        self.http = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self.http.daemon_threads, self.http.block_on_close = True, False
        self.port = self.http.server_address[1]
        self.open = set()
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.kill()

    def kill(self):
        """As SIGKILL: nobody is answered any more, and connections break."""
        if self.http is None:
            return
        http, self.http = self.http, None
        self.released.set()
        http.shutdown()
        http.server_close()
        for connection in [*self.open]:
            connection.close()

    def complete(self, body):
        decoding = Decoding(body["temperature"], body["top_k"], body["top_p"])
        policy = decoding if self.order is declared else Order(decoding, self.order)
        stops = set(body["stop_token_ids"]) | stop_ids(self.model.generation_config, self.tokenizer)
        seed = body.get("seed", time.monotonic_ns())
        n, room, ids = body["n"], body["max_tokens"], body["prompt"]
        if room == 1:
            drawn = [[token] for token in self.first(ids, policy, seed, n)]
        else:
            asked = [Request(str(seed), i, ids, room, tuple(body["stop"])) for i in range(n)]
            with self.lock:
                drawn = draw(self.model, self.tokenizer, asked, policy, progress=False)
        choices = []
        for index, new in enumerate(drawn):
            text = completion_text(self.tokenizer, ids, new)
            ended = new[-1] in stops or len(new) < room
            choice = {"index": index, "text": text, "finish_reason": "stop" if ended else "length"}
            if self.ids:
                choice["token_ids"] = [token + self.shift for token in new]
            choices.append(choice)
        return {"object": "text_completion", "model": body["model"], "choices": choices}

    @torch.no_grad()
    def first(self, ids, policy, seed, n):
        """Many draws of one token: by inversion, from a generator of this seed."""
        with self.lock:
            if tuple(ids) not in self.logits:
                self.logits[tuple(ids)] = self.model(torch.tensor([ids])).logits[0, -1]
            p = policy.probabilities(self.logits[tuple(ids)])
        mass = p.cumsum(-1).numpy()
        u = np.random.default_rng(seed).random(n) * mass[-1]  # fewer draws are the first of these
        return np.searchsorted(mass, u, side="right").tolist()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_: FakeServer

    def setup(self):
        super().setup()
        self.connection.setsockopt(6, 1, 1)  # TCP_NODELAY
        self.server_.open.add(self.connection)

    def finish(self):
        self.server_.open.discard(self.connection)
        super().finish()

    def log_message(self, *_):
        pass

    def handle(self):
        try:
            super().handle()
        except (OSError, ValueError):  # killed, or the other side went
            self.close_connection = True

    def answer(self, content, status=200):
        said = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def refused(self):
        server = self.server_
        if server.http is None:
            self.close_connection = True
            return True
        if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
            self.answer({"error": "Unauthorized"}, 401)
            return True
        return False

    def do_GET(self):
        if self.refused():
            return
        if self.path == "/v1/models":
            names = [{"id": name, "owned_by": "vllm"} for name in self.server_.names]
            self.answer({"object": "list", "data": names})
        elif self.path == "/version":
            self.answer({"version": "0.0.fake"})
        else:
            self.answer({"detail": "Not Found"}, 404)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.refused():
            return
        server = self.server_
        if self.path == "/tokenize":
            ids = [token + server.shift for token in text_ids(server.tokenizer, body["prompt"])]
            return self.answer({"tokens": ids, "count": len(ids)})
        if self.path != "/v1/completions":
            return self.answer({"detail": "Not Found"}, 404)
        if body["model"] not in server.names:
            message = f"The model `{body['model']}` does not exist."
            return self.answer({"error": {"message": message}}, 404)
        with server.lock:
            number = len(server.bodies)
            server.bodies.append(body)
        fault = server.fault(number, body)
        if fault == "drop":
            self.close_connection = True
            self.connection.shutdown(2)
            return None
        if fault == "stall":
            server.released.wait()
        if fault == "garbage":
            return self.answer(b"<html>bad gateway</html>")
        if isinstance(fault, int):
            return self.answer({"error": {"message": "as told"}}, fault)
        content = server.complete(body)
        server.answered[body.get("seed")] += 1
        return self.answer(content)
