"""What an input is: its content, as one SHA-256. Never its name, nor where it lies.

Every digest in a record, a ledger or a manifest is made here; of models and tokenizers see
`models.identity`.
"""

import json
from dataclasses import asdict
from hashlib import file_digest as _file_digest
from hashlib import sha256
from pathlib import Path
from typing import Any


def digest(content: object) -> str:
    """SHA-256 of anything that JSON can hold, and of dataclasses; the order of keys is no content.

    A tuple equals a list; 1, 1.0 and True differ. TypeError for what JSON cannot hold.
    """
    return bytes_digest(json.dumps(content, sort_keys=True, default=_fields).encode())


def bytes_digest(content: Any) -> str:
    """SHA-256 of a buffer: bytes, an array, a mapped file."""
    return sha256(content).hexdigest()


def file_digest(file: Path) -> str:
    """SHA-256 of a file's bytes, a piece in memory at a time."""
    with file.open("rb") as stream:
        return _file_digest(stream, "sha256").hexdigest()


def _fields(value: Any) -> dict[str, Any]:
    return asdict(value)
