"""The measured numbers of N positions, row by row: saved as columns, selected, joined."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ssd_probe.errors import UserError


@dataclasses.dataclass(eq=False)
class Fields:
    """What a backend measures of N distributions p = softmax(z); float32 unless said, nats.

    `max_logit` [N]; `log_partition` [N] = logsumexp(z) - max z; `entropy` [N];
    `varentropy` [N] = Var(log p) = dH/dT at T=1; `tail_log_mass` [N] = log of the mass beyond rank
    K; `top_logits`, `top_ids` (int32) [N, K] by (logit descending, id ascending), padded with -inf
    and -1; `valid` [N] bool: False where a row holds NaN or +inf or is all -inf, and then its
    statistics are NaN and its ids and rank -1; `log_partition_at` [N, len(temperatures)] =
    logsumexp((z - max z) / T); `target_logprob`, `target_rank` (int32, from 1) [N], or None.

    Source: paper sections 2 and 3.
    """

    max_logit: Tensor
    log_partition: Tensor
    entropy: Tensor
    varentropy: Tensor
    tail_log_mass: Tensor
    top_logits: Tensor
    top_ids: Tensor
    valid: Tensor
    temperatures: tuple[float, ...] = ()
    log_partition_at: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0, 0))
    target_logprob: Tensor | None = None
    target_rank: Tensor | None = None

    def __len__(self) -> int:
        return len(self.valid)

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any]) -> Self:
        """Rebuild from saved columns: numpy arrays, tensors or a frame; others are ignored.

        A 2-D field may be a column of equally long arrays. Errors: `UserError` for a missing one.
        """
        missing = [name for name in REQUIRED if name not in columns]
        if missing:
            raise UserError(f"position statistics: missing columns {', '.join(missing)}")
        found: dict[str, Any] = {n: _tensor(columns[n]) for n in _COLUMNS if n in columns}
        stats = cls(**found)
        prefix = "log_partition_at_"
        names = [name for name in columns if str(name).startswith(prefix)]
        if names:
            stats.temperatures = tuple(float(name.removeprefix(prefix)) for name in names)
            stats.log_partition_at = torch.stack([_tensor(columns[n]) for n in names], -1)
        return stats

    def to_columns(self) -> dict[str, np.ndarray]:
        """Arrays of length N by field name (top_* are [N, K]), `log_partition_at_<T>` one by T."""
        columns = {
            name: value.cpu().numpy()
            for name in _COLUMNS
            if (value := getattr(self, name)) is not None
        }
        for i, temperature in enumerate(self.temperatures):
            name = f"log_partition_at_{temperature}"
            columns[name] = self.log_partition_at[:, i].cpu().numpy()
        return columns

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, in order. Errors: see `collect`."""
        if not parts:
            raise UserError("concat: needs at least one part")
        return cls.collect(parts, sum(len(part) for part in parts))

    @classmethod
    def collect(cls, parts: Iterable[Self], rows: int) -> Self:
        """`concat` of parts of `rows` rows in all, each let go before the next is made.

        One part that holds all the rows comes back itself.
        Errors: `UserError` unless the rows are so many, and the parts alike in temperatures, K and
        having targets.
        """
        whole: Self | None = None
        done = 0
        for part in parts:
            if whole is None:
                whole = part if len(part) == rows else part._empty(rows)
            elif part._form() != whole._form():
                raise UserError(
                    "concat: the parts hold different temperatures, numbers of ranks or targets; "
                    "compute them with the same arguments"
                )
            begin, done = done, done + len(part)
            if part is not whole and begin < done <= rows:
                for name, value in part._by_row().items():
                    getattr(whole, name)[begin:done] = value
        if whole is None:
            raise UserError("collect: needs at least one part, if only of 0 rows")
        if done != rows:
            raise UserError(
                f"collect: the parts hold {done} rows, not {rows}; give all and no more"
            )
        return whole

    def rows(self, index: Any) -> Self:
        """Only these rows: a slice, a mask [N] or indices."""
        chosen: dict[str, Any] = {name: v[index] for name, v in self._by_row().items()}
        return dataclasses.replace(self, **chosen)

    def to(self, device: torch.device | str) -> Self:
        """All tensors on `device`."""
        tensors = {n: v for n, v in vars(self).items() if isinstance(v, Tensor)}
        moved: dict[str, Any] = {n: v.to(device) for n, v in tensors.items()}
        return dataclasses.replace(self, **moved)

    def cpu(self) -> Self:
        """All tensors in the host's memory."""
        return self.to("cpu")

    def _by_row(self) -> dict[str, Tensor]:
        """The fields with an entry a row: not `log_partition_at` where it is a placeholder."""
        fields = {n: v for n, v in vars(self).items() if isinstance(v, Tensor)}
        return {n: v for n, v in fields.items() if self.temperatures or n != "log_partition_at"}

    def _form(self) -> tuple:
        """What statistics must share to be joined."""
        return self.temperatures, {n: v.shape[1:] for n, v in self._by_row().items()}

    def _empty(self, rows: int) -> Self:
        """The same fields with so many rows, not yet written."""
        tensors = self._by_row().items()
        empty: dict[str, Any] = {n: v.new_empty((rows, *v.shape[1:])) for n, v in tensors}
        return dataclasses.replace(self, **empty)


# Names of columns, from the one list of them, which is that of the fields above.
_COLUMNS = tuple(
    f.name
    for f in dataclasses.fields(Fields)
    if f.name not in ("temperatures", "log_partition_at")  # they become a column a temperature
)
REQUIRED = tuple(n for n in _COLUMNS if n not in ("target_logprob", "target_rank"))
RANKED = ("top_ids", "top_logits")  # [N, K]
SCALARS = tuple(n for n in REQUIRED if n not in (*RANKED, "valid"))


def _tensor(column: Any) -> Tensor:
    """A column as a tensor; copied, because a table's arrays may be read-only."""
    if isinstance(column, Tensor):
        return column
    array = np.asarray(column)
    if array.dtype == object:  # a frame's column of arrays
        array = np.stack(array.tolist()) if len(array) else np.empty((0, 0), np.float32)
    return torch.tensor(array)
