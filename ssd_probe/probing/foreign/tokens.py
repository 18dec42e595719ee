"""What every format is read into: the token that stands at a position, and the likeliest there."""

from typing import NamedTuple

UNLIKELY = -9999.0  # OpenAI's for a token outside its leading ones, vLLM's for -inf: no number


class Token(NamedTuple):
    """A token, its id and rank (from 1) where the file tells them, log-probability in nats or None.

    Of equally likely tokens the rank is the server's: vLLM's counts all of them.
    """

    text: str
    id: int | None
    logprob: float | None
    rank: int | None = None


class Position(NamedTuple):
    """The token that stands there, and the leading ones, the likeliest first."""

    token: Token
    leading: list[Token]
    may_lack: bool = False  # a likelier token may be missing: names that two ids share


def known(logprob: float | None) -> float | None:
    """In nats; None where the server told no number. Raises ValueError for NaN."""
    if logprob is None or logprob <= UNLIKELY:
        return None
    if logprob != logprob:
        raise ValueError("a log-probability is NaN")
    return float(logprob)
