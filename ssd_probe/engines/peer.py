"""One server, and whether it is what is taken for: its model, its tokenizer, ids in its answers."""

import threading
from typing import Any

from ssd_probe.decoding import Decoding
from ssd_probe.engines.dialects import Asked, Dialect, Reply, dialect_of
from ssd_probe.engines.link import Link, Transient
from ssd_probe.errors import Resumable, UserError
from ssd_probe.models.identity import Checkpoint
from ssd_probe.models.tokens import completion_text, text_ids

SAMPLE = "def f(x):\n    return [x + 1, 'é'] # naïve 42\n"  # letters, spaces, lines, digits, UTF-8


class Peer:
    """A server by its link; looked at before the first request, and again after it was down."""

    def __init__(
        self, link: Link, checkpoint: Checkpoint, served: str | None, allow_text: bool
    ) -> None:
        self.link, self.checkpoint = link, checkpoint
        self.served, self.allow_text = served, allow_text
        self.lock = threading.Lock()
        self.checked = self.down = self.text_only = False
        self.model, self.version = "", ""
        self.dialect: Dialect

    def require(self) -> None:
        """Look at the server now; `Resumable` where it cannot be reached."""
        try:
            self._check()
        except Transient as trouble:
            raise Resumable(
                f"{trouble}; start the server, or wait for it, and run the same command"
            ) from None

    def ask(self, asked: Asked) -> list[Reply]:
        """Its answers. `Transient` where the same may be asked again."""
        try:
            self._check()
            replies = self._ask(asked)
        except Transient as trouble:
            if trouble.down:
                self.checked, self.down = False, True
            raise
        self.down = False
        return replies

    def _ask(self, asked: Asked) -> list[Reply]:
        try:
            content = self.link.post(self.dialect.path, self.dialect.body(asked))
            replies = self.dialect.replies(content)
        except FileNotFoundError:
            raise UserError(f"{self.link.url}: has no {self.dialect.path}") from None
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise Transient(f"{self.link.url}: an answer of another form ({error!r})") from None
        if len(replies) != asked.n or any(r.reason not in ("stop", "length") for r in replies):
            reasons = ", ".join(reply.reason for reply in replies) or "nothing"
            raise Transient(f"{self.link.url}: an answer that was broken off ({reasons})")
        return replies

    def _check(self) -> None:
        with self.lock:
            if self.checked:
                return
            self._name()
            self._tokenizer()
            self._ids()
            self.checked, self.down = True, False

    def _name(self) -> None:
        url = self.link.url
        try:
            models = self.link.get("/v1/models")
        except FileNotFoundError:
            raise UserError(f"{url}: no OpenAI-compatible server (it has no /v1/models)") from None
        if not isinstance(models, dict) or not isinstance(models.get("data", []), list):
            raise UserError(f"{url}: no OpenAI-compatible server (what is /v1/models there?)")
        names = [str(each.get("id")) for each in models.get("data", [])]
        wanted = self.served or (self.checkpoint.name if len(names) != 1 else names[0])
        if wanted not in names:
            listed = ", ".join(names[:5]) or "nothing"
            raise UserError(f"{url}: does not serve {wanted!r}; --served-model: one of {listed}")
        self.model = wanted
        kind, self.dialect = dialect_of(models)
        try:
            version = self.dialect.version(self.link.get(self.dialect.version_path))
        except (FileNotFoundError, UserError, AttributeError):
            version = "?"
        self.version = f"{kind} {version}"

    def _tokenizer(self) -> None:
        """By the server's own /tokenize, where it has one."""
        ids = text_ids(self.checkpoint.tokenizer, SAMPLE)
        asked: dict[str, Any] = {"model": self.model, "prompt": SAMPLE, "content": SAMPLE}
        try:
            answer = self.link.post("/tokenize", {**asked, "add_special_tokens": False})
        except (FileNotFoundError, UserError):
            return
        found = answer.get("tokens") if isinstance(answer, dict) else None
        if isinstance(found, list) and found != ids:
            self._refuse_tokenizer("the same text has other ids there")

    def _ids(self) -> None:
        """By a greedy answer: whether ids come with it, and mean the same text here."""
        tokenizer = self.checkpoint.tokenizer
        limits, ids = self.checkpoint.limits, text_ids(tokenizer, SAMPLE)[:8]
        asked = Asked(self.model, ids, 8, Decoding(0), 0, sorted(limits.stops))
        (reply,) = self._ask(asked)
        self.text_only = reply.ids is None
        if reply.ids is None:
            if not self.allow_text:
                raise UserError(
                    f"{self.link.url}: gives text and no token ids, and text tokenised again is "
                    "not always what was drawn; use vLLM, SGLang or llama.cpp, or --allow-text"
                )
            return
        here = completion_text(tokenizer, ids, [i for i in reply.ids if i < limits.vocabulary])
        whole = "\ufffd" not in here + reply.text
        if max(reply.ids, default=0) >= limits.vocabulary or (
            whole and here.strip() != reply.text.strip()
        ):
            self._refuse_tokenizer(f"it writes {reply.text!r} for ids that are {here!r} here")

    def _refuse_tokenizer(self, how: str) -> None:
        raise UserError(
            f"{self.link.url}: another tokenizer than that of {self.checkpoint.name} ({how}); "
            "name the model that is served there with --model"
        )
