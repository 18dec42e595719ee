"""A KV cache whose rows can be dropped, copied and joined while they grow.

For models whose every layer keeps keys and values [B, H, L, D] of all its tokens (`new_cache`).
Rows are aligned on the right: what is missing on the left is padding, which the mask leaves out.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 64  # columns ahead: a step writes one and copies nothing, once in `ROOM` steps all


class RoomyLayer(DynamicLayer):
    """transformers' layer of full attention, with room for what comes."""

    keys: Any  # Tensor, once there is one
    values: Any

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._rooms: dict[str, Tensor] = {}  # `keys` and `values` are views of these

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **settings: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values, these columns added."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._appended("keys", self.keys, key_states)
        self.values = self._appended("values", self.values, value_states)
        return self.keys, self.values

    def _appended(self, name: str, held: Tensor, new: Tensor) -> Tensor:
        length = held.shape[-2] if held.numel() else 0
        room, end = self._rooms.get(name), length + new.shape[-2]
        if room is None or room.shape[-2] < end:
            room = new.new_empty(*new.shape[:-2], end + ROOM, new.shape[-1])
            if length:
                room[: len(held), :, :length] = held
            self._rooms[name] = room
        room[: len(new), :, length:end] = new
        return room[: len(new), :, :end]

    def take(self, other: "RoomyLayer", rows: int) -> None:
        """Become `rows` copies of the one row of another."""
        self.lazy_initialization(other.keys, other.values)
        self.keys = other.keys.clone().expand(rows, -1, -1, -1)
        self.values = other.values.clone().expand(rows, -1, -1, -1)

    def move(self, to: list[int], origin: list[int], count: int) -> None:
        """Copy rows over others, then keep the first `count`."""
        for held in (self.keys, self.values):
            held[to] = held[origin]
        self.keys, self.values = self.keys[:count], self.values[:count]

    def join(self, layers: Sequence["RoomyLayer"], width: int) -> None:
        """Become the rows of several, aligned on the right, the last `width` columns of each."""
        self.lazy_initialization(layers[0].keys, layers[0].values)
        for name in ("keys", "values"):
            parts = [getattr(layer, name)[:, :, -width:] for layer in layers]
            _, heads, _, depth = parts[0].shape
            rows = sum(map(len, parts))
            room = parts[0].new_empty(rows, heads, width + ROOM, depth)
            row = 0
            for part in parts:
                mine, pads = room[row : row + len(part)], width - part.shape[-2]
                mine[:, :, :pads] = 0  # seen by nobody, but never NaN
                mine[:, :, pads:width] = part
                row += len(part)
            self._rooms[name] = room
            setattr(self, name, room[:, :, :width])


def new_cache(model: Any) -> DynamicCache:
    """An empty cache of `RoomyLayer`s. `TypeError` for a model that wants layers of other kinds."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    if not cache.layers or any(type(layer) is not DynamicLayer for layer in cache.layers):
        raise TypeError("not a cache of full attention alone")
    cache.layers = [RoomyLayer() for _ in cache.layers]
    return cache


def layers_of(cache: DynamicCache) -> list[RoomyLayer]:
    return cache.layers  # type: ignore[return-value]


def copies(cache: DynamicCache, rows: int, model: Any) -> DynamicCache:
    """Of a cache of one row, a new one of `rows`, which no longer changes with it."""
    made = new_cache(model)
    for mine, other in zip(layers_of(made), layers_of(cache), strict=True):
        mine.take(other, rows)
    return made


def joined(caches: Sequence[DynamicCache], width: int, model: Any) -> DynamicCache:
    """The rows of several caches in one, `width` columns wide."""
    made = new_cache(model)
    for mine, *others in zip(layers_of(made), *map(layers_of, caches), strict=True):
        mine.join(others, width)
    return made


def cropped(cache: DynamicCache, length: int) -> None:
    """Forget all columns after the first `length`."""
    for layer in layers_of(cache):
        if layer.is_initialized:
            layer.keys, layer.values = layer.keys[:, :, :length], layer.values[:, :, :length]


def without(cache: DynamicCache, gone: Sequence[int], rows: int) -> list[int]:
    """Drop some of `rows`: those behind fill their places. The rows' numbers in their new order."""
    count = rows - len(gone)
    dropped = set(gone)
    to = [row for row in sorted(dropped) if row < count]
    origin = [row for row in range(count, rows) if row not in dropped]
    for layer in layers_of(cache):
        layer.move(to, origin, count)
    order = list(range(count))
    for place, row in zip(to, origin, strict=True):
        order[place] = row
    return order
