"""Text and JSON Lines in; what is wrong in a file is one `UserError` naming file and line."""

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ssd_probe.errors import UserError

Row = dict[str, Any]


def read_jsonl(path: str | Path) -> list[Row]:
    """Read one JSON object a line; blank lines are skipped.

    Raises `UserError` "file:line: ..." for a broken line or one that is no object, and for a
    missing, unreadable or empty file.
    """
    return [row for _, row in numbered_rows(Path(path))]


def numbered_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """`(line number, row)` of a JSONL file (.gz: gzipped); one line in memory at a time.

    Raises `UserError` as `read_jsonl` does.
    """
    empty = True
    # Split on "\n" alone: `str.splitlines` also cuts at U+2028, which is legal inside JSON strings.
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            yield number, _row(line, f"{path}:{number}")
            empty = False
    if empty:
        raise UserError(f"{path}: the file is empty; expected one JSON object a line")


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, without a byte-order mark."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file):
                yield line if number else line.removeprefix(codecs.BOM_UTF8)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise UserError(f"{path}: truncated or not gzip; download it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _row(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text (byte {error.start}); convert it first") from None
    except (ValueError, RecursionError) as error:
        reason = str(error).split(": line")[0]
        raise UserError(f"{where}: not valid JSON ({reason})") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object, found {kind_of(row)}")
    if b"\\ud" in line.lower() and not _encodable(row):
        raise UserError(f"{where}: half a surrogate pair (\\ud800 to \\udfff); escape whole pairs")
    return row


def _encodable(row: Row) -> bool:
    """JSON can name half a UTF-16 pair, which is no character: no tokenizer, no file takes it."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def read_utf8(path: str | Path) -> str:
    """The text of a file, without a byte-order mark. `UserError` when missing or not UTF-8."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); convert it first") from None


def read_yaml(path: str | Path) -> Any:
    """What a YAML (or JSON) file holds, by YAML 1.2's rules: 7e-1 is a number, `no` a word.

    `UserError` when missing, not UTF-8 or not YAML.
    """
    import yaml

    text = read_utf8(path)
    try:
        return yaml.load(text, _core_schema())
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no such date
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None


@cache
def _core_schema() -> Any:
    """PyYAML's safe loader knows 1.1: `no` is False there, 010 is 8, 1:30 is 90, 7e-1 is text."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: dict = {}

        def compose_mapping_node(self, anchor: str | None) -> Any:
            """The same key twice is no YAML; PyYAML takes the last."""
            node = super().compose_mapping_node(anchor)
            keys = [(k.tag, k.value) for k, _ in node.value if isinstance(k, yaml.ScalarNode)]
            for at, key in enumerate(keys):
                if key in keys[:at] and key[1] != "<<":
                    raise yaml.YAMLError(f"the key {key[1]!r} twice in one mapping")
            return node

    number = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    for kind, pattern, first in (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?[0-9]+", list("-+0123456789")),
        ("float", rf"{number}|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.0123456789")),
        ("merge", r"<<", ["<"]),
    ):
        Loader.add_implicit_resolver(
            f"tag:yaml.org,2002:{kind}", re.compile(f"^(?:{pattern})$"), first
        )
    Loader.add_constructor(
        "tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node))
    )
    return Loader


def kind_of(value: object) -> str:
    """The JSON name of a value's type."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "nothing" if value is None else names.get(type(value), "a number")
