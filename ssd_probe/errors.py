"""The one exception that means "your input is wrong": one line for people, exit code 2."""


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, where, and what to do about it."""
