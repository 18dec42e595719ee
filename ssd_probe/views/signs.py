"""Tokens where they are read: what cannot be seen is written out."""

import unicodedata

LONGEST = 200  # characters of a token


def visible(token: str) -> str:
    """A token with what cannot be seen as its code points; blanks and line ends stay."""
    shown = "".join(
        c if c in " \n\t" or unicodedata.category(c)[0] not in "CZ" else f"‹U+{ord(c):04X}›"
        for c in token[:LONGEST]
    )
    return shown if len(token) <= LONGEST else f"{shown}… ({len(token):,} characters)"


def on_a_line(token: str, width: int = 24) -> str:
    """`visible` without line breaks: signs for them, for tabs and for blanks at either end."""
    body = token.strip(" ")
    ends = len(token) - len(token.lstrip(" ")), len(token.rstrip(" "))
    shown = "␣" * ends[0] + visible(body) + "␣" * (len(token) - ends[1] if body else 0)
    shown = shown.replace("\n", "⏎").replace("\t", "⇥")
    half = width // 2
    return shown if len(shown) <= width else f"{shown[:half]}…{shown[-half:]}"
