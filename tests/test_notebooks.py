"""Every notebook runs in a real kernel on a small run, shows what it says, and is saved small."""

import re
from pathlib import Path

import jupytext
import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
BOOKS = sorted(FOLDER.glob("*.py"))
NAMES = [path.stem for path in BOOKS]
MOST_BYTES = 3_000_000  # of all saved notebooks
# Settings and definitions, which no run changes: in words they may stand in the prose.
NUMBER = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.])|(?<![\w.])\d+ %")


def cells(path: Path, kind: str) -> list[str]:
    return [cell.source for cell in jupytext.read(path).cells if cell.cell_type == kind]


def outputs(book: nbformat.NotebookNode) -> list:
    return [out for cell in book.cells for out in cell.get("outputs", [])]


def streams(book: nbformat.NotebookNode, name: str) -> str:
    return "".join(out.text for out in outputs(book) if out.get("name") == name)


def pictures(cell: nbformat.NotebookNode) -> int:
    return sum("image/png" in out.get("data", {}) for out in cell.get("outputs", []))


def check_shown(book: nbformat.NotebookNode) -> None:
    """No warning, no error; a picture below each cell that draws, and a sentence in the next."""
    assert streams(book, "stderr") == ""
    assert not [out for out in outputs(book) if out.output_type == "error"]
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    for cell, after in zip(code, [*code[1:], None], strict=True):
        if "with paper_style():" in cell.source:
            assert pictures(cell) == 1, cell.source
            assert after is not None and after.outputs, f"not read out: {cell.source}"
            assert after.outputs[0].get("name") == "stdout", after.source


@pytest.mark.parametrize("path", BOOKS, ids=NAMES)
def test_it_runs_clean_and_shows_what_it_says(path, demo_run, monkeypatch):
    check_runs(path, monkeypatch, SSD_PROBE_RUN=str(demo_run[0]), SSD_PROBE_MODEL="tiny")


def check_runs(path: Path, monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own shows figures
    monkeypatch.chdir(FOLDER)
    book = jupytext.read(path)
    nbclient.NotebookClient(book, timeout=900, startup_timeout=300, kernel_name="python3").execute()
    check_shown(book)


@pytest.mark.parametrize("path", BOOKS, ids=NAMES)
def test_the_saved_pair_has_the_same_cells_and_clean_outputs(path):
    saved = jupytext.read(path.with_suffix(".ipynb"))
    assert [c.source for c in saved.cells] == [c.source for c in jupytext.read(path).cells]
    assert "widgets" not in saved.metadata
    check_shown(saved)
    text = path.with_suffix(".ipynb").read_text(encoding="utf-8")
    for private in ("/work/", "/tmp/", "/root/", str(Path.home())):
        assert private not in text, private


def test_the_saved_notebooks_are_small():
    assert sum(path.with_suffix(".ipynb").stat().st_size for path in BOOKS) < MOST_BYTES


@pytest.mark.parametrize("path", BOOKS, ids=NAMES)
def test_numbers_of_the_prose_are_settings_of_the_code(path):
    """What was measured is printed by a cell: prose would go stale."""
    known = {"95 %", *KNOWN.get(path.stem, ())}
    code = "\n".join(cells(path, "code"))
    for text in cells(path, "markdown"):
        for number in set(NUMBER.findall(text)) - known:
            assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", code), number


def test_the_rule_s_numbers_are_its_own():
    from ssd_probe.analysis.labels import SupportRule

    rule = SupportRule()
    assert KNOWN["02_forks_and_locks"] == (f"{rule.lock_at_most}", f"{rule.fork_at_least}")
    assert (rule.head_tokens, rule.head_mass) == (6, 0.5)  # "six tokens hold less than half"


def test_every_notebook_is_in_the_list_and_leads_there():
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    for path in BOOKS:
        assert f"[{path.stem}]({path.stem}.ipynb)" in listed


KNOWN = {"02_forks_and_locks": ("1.25", "1.5")}
