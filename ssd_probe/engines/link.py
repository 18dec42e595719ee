"""JSON over HTTP to one server: what may come right is told from what will not."""

import random
from typing import Any
from urllib.parse import urlsplit

from ssd_probe.errors import UserError

try:  # what huggingface_hub brings, which transformers requires: httpx2, before 2.0 httpx
    import httpx2 as httpx
except ImportError:
    import httpx  # type: ignore[no-redef]

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds


class Transient(Exception):
    """No answer this time: ask again, after `wait` seconds where the server says so.

    `down`: nothing was reached, or it broke off, so that another server may stand there next time.
    """

    def __init__(self, reason: str, wait: float | None = None, down: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.down = wait, down


class Link:
    """One address. `timeout`: seconds until an answer, its first byte and its last."""

    def __init__(self, url: str, key: str | None, window: int, timeout: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"--url {url}: must be http://HOST:PORT or https://HOST")
        if parts.username or parts.password:
            raise UserError("--url: holds a name or a password; a key goes into SSD_PROBE_API_KEY")
        self.url, self.key, self.timeout = url.rstrip("/").removesuffix("/v1"), key, timeout
        self.client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=window, max_keepalive_connections=window),
        )

    def get(self, path: str) -> Any:
        return self._call("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        """The answer's JSON. `Transient`, or `UserError` for what the same request will not mend.

        `FileNotFoundError` for a path that there is not.
        """
        try:
            timeout = httpx.Timeout(self.timeout, connect=10.0, pool=None)
            answer = self.client.request(method, self.url + path, json=body, timeout=timeout)
        except httpx.TimeoutException as error:
            raise Transient(f"{self.url}: no answer in time ({type(error).__name__})") from None
        except (httpx.TransportError, RuntimeError) as error:  # RuntimeError: closed meanwhile
            raise Transient(f"{self.url}: {error or type(error).__name__}", down=True) from None
        if answer.status_code == 429 or answer.status_code >= 500:
            wait = answer.headers.get("retry-after", "")
            seconds = float(wait) if wait.replace(".", "", 1).isdigit() else None
            raise Transient(f"{self.url}: status {answer.status_code}", seconds)
        if answer.status_code in (404, 405) and not self._said(answer):
            raise FileNotFoundError(path)
        if answer.status_code in (401, 403):
            had = "refuses the key" if self.key else "wants a key"
            raise UserError(f"{self.url}: {had} (status {answer.status_code}); SSD_PROBE_API_KEY")
        if answer.status_code >= 400:
            reason = self._said(answer) or f"status {answer.status_code}"
            raise UserError(f"{self.url}: refuses the request: {reason}")
        try:
            return answer.json()
        except ValueError:
            raise Transient(f"{self.url}: an answer that is no JSON", down=True) from None

    def _said(self, answer: Any) -> str:
        """A server's own words about an error, without the key."""
        try:
            content = answer.json()
        except ValueError:
            return ""
        error = content.get("error", content) if isinstance(content, dict) else content
        said = error.get("message", "") if isinstance(error, dict) else error
        words = " ".join(str(said or "").split())[:300]
        return words.replace(self.key, "***") if self.key else words

    def close(self) -> None:
        self.client.close()


def pause(tries: int, asked: float | None = None) -> float:
    """Seconds to wait before the next try: doubling, with chance, or what the server asked for."""
    if asked is not None:
        return min(asked, LONGEST_WAIT)
    longest = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(tries, 10))
    return random.uniform(longest / 2, longest)
