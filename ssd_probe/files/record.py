"""What an output remembers: its settings, and where it came from."""

import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from ssd_probe.errors import UserError
from ssd_probe.files.writing import write_json

FORMAT = 2  # of records; 1 knew models by their weights alone and problems by their name
PACKAGES = ("torch", "transformers", "numpy", "scipy", "pandas", "pyarrow", "matplotlib")


def begin(
    record: Path,
    settings: dict,
    about: dict | None = None,
    made: Iterable[Path] = (),
    newer: AbstractSet[str] = frozenset(),
) -> None:
    """Write the record of a new output, or check that an old one was made with these settings.

    `about` is recorded too, but not compared: names, paths and the device, which may change without
    changing the result. `made`: the files, finished or not, that the record is of. `newer`:
    settings that older records lack, where others say whether anything changed. Raises `UserError`
    "RECORD: key: old -> new" for the first setting that differs, digests last, since they follow
    from others: an output is never a mixture of two settings; for a record of an older format,
    which can be read and not gone on with; and for something `made` that has no record, whoever's
    it is.
    """
    flat = _flatten(settings)
    if record.exists():
        found = read_record(record)
        if found.get("format") != FORMAT:
            raise UserError(
                f"{record}: format: {found.get('format')} -> {FORMAT}; it can be read, but "
                "an older version did not record all it depends on: use another --out, or delete it"
            )
        old = _flatten(found["settings"])
        compared = (old.keys() | flat.keys()) - (newer - old.keys())
        for key in sorted(compared, key=lambda key: (_is_digest(flat.get(key)), key)):
            if old.get(key) != flat.get(key):
                raise UserError(
                    f"{record}: {key}: {old.get(key)} -> {flat.get(key)}; "
                    "use another --out for other settings, or delete all of this output"
                )
        return
    for path in made:
        if path.exists():
            raise UserError(
                f"{path}: exists, and {record.name} does not say how it was made; "
                "use another --out, or delete it"
            )
    write_json(record, {"format": FORMAT, "settings": settings, **provenance(), **(about or {})})


@contextmanager
def recording(
    record: Path,
    settings: dict,
    about: dict | None = None,
    made: Sequence[Path] = (),
    newer: AbstractSet[str] = frozenset(),
) -> Iterator[None]:
    """`begin` for a block; bad input that shows only there leaves no record of nothing."""
    new = not record.exists()
    begin(record, settings, about, made, newer)
    try:
        yield
    except UserError:
        if new and not any(path.exists() for path in made):
            record.unlink(missing_ok=True)
        raise


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def add(record: Path, **about: object) -> None:
    """Put into a record what was found out on the way; nothing that is compared."""
    write_json(record, read_record(record) | about)


def read_record(record: Path) -> dict:
    """The JSON object of a record, `settings` in it; `UserError` if it is damaged."""
    content = read_object(record, "delete this output and run again")
    if not isinstance(content.get("settings"), dict):
        raise UserError(f"{record}: no record of settings; choose another --out, or delete it")
    return content


def read_object(path: Path, mend: str = "delete it and run again") -> dict:
    """A JSON object that this package wrote; `UserError` if it is damaged, and how to `mend` it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); {mend}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: damaged (no object); {mend}")
    return content


def _flatten(settings: dict, prefix: str = "") -> dict:
    """Nested settings as `decoding.top_p: 0.8`, in the types that JSON gives back."""
    flat: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.loads(json.dumps(value))
    return flat


def provenance() -> dict:
    """Versions, machine, commit and time: what a reader needs to run it again.

    `device` is that of what loads no model; the others say theirs (`checkpoints.device_name`).
    """
    torch = sys.modules.get("torch")  # evaluations do without it, and its 300 MB
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: metadata.version(name) for name in ("ssd-probe", *PACKAGES)},
        "python": platform.python_version(),
        "device": "cpu",
        "threads": torch.get_num_threads() if torch else None,
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The git commit of this package's checkout, or None when it is installed from a wheel.

    Installed inside somebody's repository, say in a .venv, it is none of that one's files.
    """
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        return _git("rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
