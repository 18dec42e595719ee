"""The standard library's functions, from this Python's files or others, as they stand there."""

import ast
import platform

import pytest

from ssd_probe.errors import UserError
from ssd_probe.problems.prompts import read_prompts
from ssd_probe.problems.stdlib import LINES, SPLITS, stdlib
from ssd_probe.problems.tasks import load_tasks
from ssd_probe.problems.texts import read_texts

SOURCE = r'''
import os
@cache
@wraps(
    os)
def decorated(a: str = '"', *,
              b=None) -> "é":
    r"""Raw \d, 'quotes', é."""

    # why
    return a
FORM FEED
async def waits(x):
    "One line."
    await x
    return f"""
column 0
"""
def tabs(x):
	"""Doc.
	"""
	if x:
		return 1
def nested(x):
    "Doc."
    def inner():
        """Another."""
    return inner
def undocumented(x):
    y = x
    return y
def short(x):
    "Doc."
    return x
def beside(x): "Doc."; y = x; return y
def behind(x):
    "Doc."; y = x
    return y
def blank(x):
    " "
    y = x
    return y
def fenced(x):
    """```
    """
    y = x
    return y
class C:
    def method(self):
        "Doc."
        y = 1
        return y
def waits(x):
    "Again."
    y = x
    return y
'''.replace("FORM FEED", "\f")
LATIN = "# coding: latin-1\ndef f(x):\n    'é'\n    y = x\n    return y\n"


@pytest.fixture
def library(tmp_path, monkeypatch):
    """An empty folder, which is this Python's library."""
    root = tmp_path / "library"
    root.mkdir()
    monkeypatch.setattr("sysconfig.get_path", {"stdlib": str(root)}.get)
    return root


def test_the_standard_librarys_functions():
    rows = stdlib()
    names = [row["task_id"] for row in rows]
    assert len(names) > 500 and len({*names}) == len(names) and "stdlib/textwrap.dedent" in names
    assert not any(name.startswith(("stdlib/test.", "stdlib/idlelib.")) for name in names)
    assert len({name.rpartition(".")[0] for name in names[:40]}) > 25  # of many modules
    parts = {split: stdlib(split) for split in SPLITS}
    assert sorted(row["task_id"] for part in parts.values() for row in part) == sorted(names)
    assert len(parts["ssd"]) > len(parts["test"]) > 100 < len(parts["dev"])
    for row in rows:
        (function,) = ast.parse(row["prompt"] + row["canonical_solution"]).body
        (head,) = ast.parse(row["prompt"]).body
        assert function.name == row["entry_point"] and ast.get_docstring(function)
        assert len(head.body) == 1 and ast.get_docstring(head) == ast.get_docstring(function)
        assert len(row["canonical_solution"].splitlines()) in LINES
        assert row["python"] == platform.python_version()


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_functions_of_every_shape_stand_as_in_their_file(end, library):
    (library / "m.py").write_bytes(SOURCE.replace("\n", end).encode("utf-8-sig"))
    (library / "pack").mkdir()
    (library / "pack/__init__.py").write_bytes(LATIN.encode("latin-1"))
    (library / "test").mkdir()
    (library / "test/f.py").write_bytes(LATIN.encode("latin-1"))
    (library / "deep.py").write_text("(" * 5000 + ")" * 5000)
    (library / "bytes.py").write_bytes(b"\xff\x00")
    rows = {row["entry_point"]: row for row in stdlib()}
    assert {*rows} == {"decorated", "waits", "tabs", "nested", "f"}
    assert rows["f"]["task_id"] == "stdlib/pack.f"
    for name, row in rows.items():
        source = LATIN if name == "f" else SOURCE
        assert row["prompt"] in source and row["canonical_solution"] in source
        between = source.partition(row["prompt"])[2].partition(row["canonical_solution"])[0]
        assert between.strip() == ""
    assert rows["decorated"]["prompt"].startswith("@cache\n@wraps(\n")
    assert rows["decorated"]["canonical_solution"] == "    # why\n    return a\n"
    assert rows["waits"]["canonical_solution"].endswith('\ncolumn 0\n"""\n')
    assert rows["tabs"]["canonical_solution"] == "\tif x:\n\t\treturn 1\n"


@pytest.mark.parametrize("where", ["nowhere", "python311.zip", "."])
def test_a_python_without_its_sources_says_so(where, library, monkeypatch):
    (library / "python311.zip").write_bytes(b"PK")
    monkeypatch.setattr("sysconfig.get_path", {"stdlib": str(library / where)}.get)
    for read in (read_prompts, read_texts):
        with pytest.raises(UserError, match="stdlib: .* has no sources of this Python's library"):
            read("stdlib:ssd")


def test_the_standard_library_as_prompts_and_texts_and_never_as_tasks():
    prompts, texts = read_prompts("stdlib:dev", 3), read_texts("stdlib:dev", 3)
    assert [p.problem_id for p in prompts] == [t.problem_id for t in texts]
    assert prompts[0].meta["python"] == platform.python_version()
    assert texts[0].prompt in prompts[0].messages[0]["content"] and texts[0].completion
    with pytest.raises(UserError, match="stdlib:dev: these functions have no tests"):
        load_tasks("stdlib:dev")
    for wrong in ("", "train", "SSD", "ssd:dev", " dev"):
        for read in (read_prompts, read_texts):
            with pytest.raises(UserError, match=f"^stdlib:{wrong}: no such split; choose stdlib, "):
                read(f"stdlib:{wrong}")
