"""The exceptions that are an answer and not a fault: one line for people, and an exit code."""


class UserError(ValueError):
    """Bad input. The message is one line: what is wrong, where, and what to do about it.

    A `ValueError`, as a notebook expects of `Decoding(-1)`.
    """


class Failed(Exception):
    """It ran, and what was asked for did not come of it. One line: what failed; exit code 1."""


class Resumable(Exception):
    """Stopped before the end; the same command goes on. One line: why, and what is done."""

    exit_code = 75  # EX_TEMPFAIL
