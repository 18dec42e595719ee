"""Published checkpoints against their bases: a file with `pairs`, which `run` probes and compares.

    pairs:
      mine: {base: ./base, tuned: ./student, T_train: 1.6, top_k: 20, top_p: 0.8}
    texts: [humaneval]
    text_limit: 100

Each pair is `probe --pair` and `compare --pair`; models must be here already.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd_probe.commands.loop.sizes import HALF, ROW_BYTES, amount, size_of
from ssd_probe.commands.loop.typed import command
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.files.declared import decoding_of, listed, mapping, name_of, whole
from ssd_probe.files.writing import write_json
from ssd_probe.models.checkpoints import is_here

_LONGEST = 512  # tokens that a solution has at most, to say what a probe needs


@dataclass(frozen=True)
class Pair:
    """A base and what was made of it; `decoding`: of its training samples."""

    name: str
    base: str
    tuned: str
    decoding: Decoding


@dataclass(frozen=True)
class Released:
    """What to probe, and how."""

    pairs: tuple[Pair, ...]
    texts: tuple[str, ...]
    text_limit: int | None = None
    dtype: str = "auto"

    def commands(self, out: Path) -> list[list[Any]]:
        """Of each pair: probe both on the same texts, compare."""
        found: list[list[Any]] = []
        for pair in self.pairs:
            probe, d = out / "probes" / pair.name, pair.decoding
            words: list[Any] = ["probe", "--model", pair.base, "--pair", pair.tuned]
            words += [word for text in self.texts for word in ("--text", text)]
            words += ["--limit", self.text_limit] if self.text_limit else []
            found.append([*words, "--dtype", self.dtype, "--out", probe])
            at = ["--temperature", d.temperature, "--top-k", d.top_k, "--top-p", d.top_p]
            found.append(["compare", "--pair", probe, *at, "--out", out / pair.name])
        return found


def released_of(values: dict[str, Any]) -> Released:
    """The declaration of a mapping; `UserError` for anything missing, unknown or illegal."""
    known = {"pairs", "texts", "text_limit", "dtype"}
    given = mapping(values, "the file", known, ("pairs", "texts"))
    pairs = []
    for name, each in mapping(given["pairs"], "pairs").items():
        where, known = f"pairs.{name}", {"base", "tuned", "T_train", "top_k", "top_p"}
        each = mapping(each, where, known, ("base", "tuned", "T_train"))
        decoding = decoding_of(where, each["T_train"], each.get("top_k", 0), each.get("top_p", 1))
        pairs.append(Pair(name_of(where, name), str(each["base"]), str(each["tuned"]), decoding))
    limit = given.get("text_limit")
    if limit is not None:
        whole("text_limit", limit, 1)
    texts = tuple(map(str, listed(given["texts"])))
    return Released(tuple(pairs), texts, limit, str(given.get("dtype", "auto")))


def missing(released: Released) -> list[str]:
    """Models whose files are not on this machine: no folder, and not in the hub's cache."""
    names = dict.fromkeys(name for pair in released.pairs for name in (pair.base, pair.tuned))
    return [name for name in names if not (is_here(name) or _cached(name))]


def _cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except ValueError:  # no hub id
        return False


def released_lines(released: Released, name: str, out: Path) -> list[str]:
    """Every command, and what it needs."""
    lines = [f"# {name}: published checkpoints against their bases"]
    for pair in released.pairs:
        size, source = size_of(pair.base)
        held = f"{amount(2 * HALF * size.parameters)}B for both in bfloat16" if size else "unknown"
        lines.append(f"# {pair.name}: {pair.base}, {source}; memory {held}")
    if absent := missing(released):
        lines += ["# fetch first, as nothing is downloaded unasked:"]
        lines += [f"hf download {each}" for each in absent]
    rows = (released.text_limit or 164) * len(released.texts) * _LONGEST * len(released.pairs)
    lines.append(f"# disk: probes of at most {amount(2 * rows * ROW_BYTES)}B")
    return [*lines, *map(command, released.commands(out))]


def released_stage(released: Released, name: str, out: Path, say: Callable[..., None]) -> dict:
    """Probe and compare every pair into `out`; the content of its summary.json.

    Errors: `UserError` where a model's files are not on this machine, which names what to fetch.
    """
    if absent := missing(released):
        raise UserError(
            f"{name}: {absent[0]} is not on this machine, and nothing is downloaded unasked; "
            f"`hf download {absent[0]}` first ({len(absent)} are missing)"
        )
    from ssd_probe.commands.compare import compare_stage
    from ssd_probe.commands.probe import probe_stage
    from ssd_probe.probing.config import ProbeConfig

    summary: dict[str, Any] = {"name": name, "pairs": {}}
    for pair in released.pairs:
        say(f"{pair.name}: probe {pair.base} and {pair.tuned} on {', '.join(released.texts)}")
        probe = out / "probes" / pair.name
        config = ProbeConfig(dtype=released.dtype)
        about: dict[str, Any] = {"pair": pair.tuned, "limit": released.text_limit}
        probe_stage(pair.base, list(released.texts), probe, config, **about)
        made = compare_stage(None, None, probe, pair.decoding, out=out / pair.name)
        say("\n".join(made.sentences))
        summary["pairs"][pair.name] = {
            "base": pair.base, "tuned": pair.tuned, "sentences": made.sentences,
        }  # fmt: skip
    write_json(out / "summary.json", summary)
    return summary
