"""The pages: every snippet runs, commands and columns are explained, links and names lead there."""

import pkgutil
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

from ssd_probe.analysis.changes import PAIR_STATISTICS, STATISTICS
from ssd_probe.analysis.compare import compare
from ssd_probe.analysis.leverage import Leverage
from ssd_probe.analysis.prediction.feasible import Interval
from ssd_probe.analysis.sweeps.table import COLUMNS
from ssd_probe.cli.app import app
from ssd_probe.execution.judge import VERDICTS
from ssd_probe.execution.sandbox import obstacle
from ssd_probe.models.checkpoints import bundled_checkpoint
from ssd_probe.probing.table import OTHER, schema
from tests.probes import TRAIN, probe_of, random_logits

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "NOTICE",
                 ROOT / "notebooks/README.md", *sorted((ROOT / "docs").glob("*.md"))]
}  # fmt: skip
SETUP = ("git clone <this repository> && cd ssd-probe", "make demo")
NEEDS = {  # why a line is not run here
    "the hub": "tests run offline",
    "an index of packages": "test_gguf fetches it",
    "a Dask cluster": "test_executors starts one",
    "vLLM": "test_vllm runs it where it is installed",
    "a server": "test_server and test_vllm ask servers",
    "several GPUs": "the ranks' own tests run on CPUs",
    "hours": "a real model samples some thousand answers",
    "a quarter of an hour": "it fetches a model, and takes so long",
    "minutes": "2,520 programs; test_policy_draws reads the file and sweeps a rival",
    "a minute or two": "test_demo and test_packaging run demos",
    "the demo's run": "test_demo draws its figures again",
}
COMMANDS = typer.main.get_command(app).commands
FENCE = re.compile(r"(?P<above>[^\n]*)\n\n?```(?P<language>\w+)\n(?P<body>.*?)^```", re.S | re.M)
FOLDERS = "ssd_probe|kernels|analysis|benchmarks|notebooks|docs|tests"


class Block(NamedTuple):
    above: str  # the line before the fence: its last name in backticks is the file of the block
    language: str
    body: str

    @property
    def lines(self) -> list[str]:
        """Shell lines that are no comments."""
        return [line for line in self.body.splitlines() if line and not line.startswith("#")]


def blocks(page: str) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(PAGES[page])]


def shell_lines(page: str) -> list[str]:
    return [line for block in blocks(page) if block.language == "sh" for line in block.lines]


RUNNABLE = [page for page in PAGES if {b.language for b in blocks(page)} & {"sh", "python"}]


def run_line(line: str) -> None:
    """In this process: each new one would import torch and transformers for seconds."""
    words = shlex.split(line)[1:]
    if words[0] in ("branch", "evaluate", "sweep") and obstacle():
        words.append("--i-accept-unsandboxed-execution")
    assert not app(words, standalone_mode=False), line


@pytest.mark.parametrize("page", RUNNABLE)
def test_every_snippet_of_the_page_runs(page, tmp_path, monkeypatch):
    """In order, in one folder, as a reader would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    (tmp_path / "ssd_probe").symlink_to(ROOT / "ssd_probe")
    for name in ("my-base", "my-tuned"):  # the reader's own checkpoints
        (tmp_path / name).symlink_to(bundled_checkpoint())
    for block in blocks(page):
        if block.language == "sh":
            for line in block.lines:
                if line.startswith("ssd-probe ") and "# needs " not in line:
                    run_line(line)
        elif block.language in ("yaml", "json"):
            Path(re.findall(r"`([\w./-]+)`", block.above)[-1]).write_text(block.body)
        elif block.language == "python":
            exec(compile(block.body, page, "exec"), {})


def test_the_guide_and_the_readme_have_snippets():
    assert {"README.md", "docs/guide.md"} <= set(RUNNABLE)
    ran = [line for page in RUNNABLE for line in shell_lines(page) if "# needs " not in line]
    assert len(ran) >= 25


@pytest.mark.parametrize("page", RUNNABLE)
def test_a_line_that_does_not_run_says_why_and_would_be_understood(page):
    for line in shell_lines(page):
        command, _, reason = line.partition("# needs ")
        assert line in SETUP or reason in NEEDS or (command.startswith("ssd-probe ") and not reason)
        if reason:
            words = re.split(r"ssd-probe |-m ssd_probe.cli ", command)[-1].split()
            COMMANDS[words[0]].make_context(words[0], words[1:])  # flags that are there
    for target in re.findall(r"`make ([\w-]+)`|^make (\S+)", PAGES[page], re.M):
        assert "".join(target) + ":" in (ROOT / "Makefile").read_text()


def test_every_command_is_in_the_guide():
    for name in COMMANDS:
        assert f"ssd-probe {name}" in PAGES["docs/guide.md"]


def explained() -> set[str]:
    """Names in the first cells of the tables of docs/method.md."""
    cells = re.findall(r"^\| ([^|]*) \|", PAGES["docs/method.md"], re.M)
    return set(re.findall(r"`(\w+)`", " ".join(cells)))


@pytest.mark.parametrize("names", [
    [name if name == "other_at_base_top" else name.removeprefix(OTHER)
     for name in schema(64, pair=True).names],
    [*STATISTICS, *PAIR_STATISTICS],
    set(Leverage._fields) - {"low", "high", "problems", "difference"},
    Interval._fields,
    COLUMNS,
    VERDICTS,
], ids=["probe", "statistics", "leverage", "interval", "sweep", "verdicts"])  # fmt: skip
def test_every_column_is_explained_in_the_method(names):
    assert set(names) - explained() == set()


def test_every_column_of_compare_is_explained_in_the_method():
    frame = probe_of(random_logits())
    assert set(compare(frame, frame, ["lock"] * len(frame), TRAIN, noise=frame)) <= explained()


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", PAGES[page])
    for link in [*links, *re.findall(r'src="([^"]+)"', PAGES[page])]:
        if not link.startswith("https://"):
            name, _, anchor = link.partition("#")
            target = ((ROOT / page).parent / name).resolve() if name else ROOT / page
            assert target.exists(), link
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M) if anchor else []
            assert not anchor or anchor in map(slug, headings), link


@pytest.mark.parametrize("page", PAGES)
def test_files_and_objects_that_a_page_names_are_there(page):
    for name in re.findall(rf"(?<![\w/])((?:{FOLDERS})/[\w./-]*)", PAGES[page]):
        assert (ROOT / name.rstrip(".")).exists(), name
    for name in re.findall(r"`((?:analysis|kernels|commands|probing)\.[\w.]+)`", PAGES[page]):
        assert pkgutil.resolve_name(f"ssd_probe.{name}"), name


def test_the_readme_is_one_page_and_its_tree_is_the_repositorys():
    assert len(PAGES["README.md"].splitlines()) <= 170
    tree = PAGES["README.md"].partition("## What is where")[2].split("```")[1]
    inside = re.findall(r"^  (\S+)", tree, re.M)
    folders = {f"{path.parent.name}/" for path in (ROOT / "ssd_probe").glob("*/__init__.py")}
    assert folders <= set(inside)
    for name in [*(f"ssd_probe/{n}" for n in inside), *re.findall(r"^(\S+)", tree, re.M)]:
        assert (ROOT / name).exists(), name
