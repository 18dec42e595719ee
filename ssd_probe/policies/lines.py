"""Whether the next token begins a line, from the token ids before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

OTHER, BLANK, END = 0, 1, 2  # of a token: text, blanks alone, or the last end of a line and blanks


class LineStarts:
    """`LineStarts(tokenizer)(ids)`: bool [B], of B rows of ids, by what each token's text is alone.

    A line begins after an end of a line with nothing but blanks since, and before any text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._kinds: dict[int, int] = {}

    def __call__(self, ids: Tensor | Iterable[Sequence[int]]) -> Tensor:
        rows = ids.tolist() if isinstance(ids, Tensor) else ids
        return torch.tensor([self._starts(row) for row in rows])

    def _starts(self, ids: Sequence[int]) -> bool:
        kind = next((kind for token in reversed(ids) if (kind := self._kind(token)) != BLANK), END)
        return kind == END

    def _kind(self, token: int) -> int:
        if token not in self._kinds:
            text = self.tokenizer.decode([token], skip_special_tokens=False)
            before, end, after = text.rpartition("\n")
            self._kinds[token] = OTHER if after.strip() else END if end else BLANK
        return self._kinds[token]
