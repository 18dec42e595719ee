"""README snippets run, every command is documented, the notebook executes."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jupytext
import nbclient
import pytest

from ssd_probe.cli.app import app
from ssd_probe.execution.sandbox import obstacle

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def snippets(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_every_command_is_in_the_readme():
    for command in app.registered_commands:
        assert f"ssd-probe {command.callback.__name__}" in README


def test_every_shell_snippet_of_the_readme_runs(tmp_path):
    """In order, in one folder, as a reader would."""
    (tmp_path / "ssd_probe").symlink_to(ROOT / "ssd_probe")
    grid = next(block for block in snippets("yaml") if block.startswith("checkpoints:"))
    (tmp_path / "grid.yaml").write_text(grid)
    lines = [line for block in snippets("sh") for line in block.splitlines()]
    commands = [shlex.split(line) for line in lines if line.startswith("ssd-probe ")]
    assert len(commands) >= 9
    for command in commands:
        if command[1] in ("evaluate", "sweep") and obstacle():
            command.append("--i-accept-unsandboxed-execution")
        result = subprocess.run(
            [sys.executable, "-m", "ssd_probe.cli", *command[1:]],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, f"{command}: {result.stderr}"


@pytest.mark.parametrize("source", snippets("python"))
def test_every_python_snippet_of_the_readme_runs(source):
    exec(compile(source, "README.md", "exec"), {})


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.py")), ids=lambda p: p.stem)
def test_notebook_executes_and_its_pair_has_the_same_cells(path, demo_run, monkeypatch):
    monkeypatch.setenv("SSD_PROBE_RUN", str(demo_run[0]))
    notebook = jupytext.read(path)
    paired = jupytext.read(path.with_suffix(".ipynb"))
    assert [c.source for c in paired.cells] == [c.source for c in notebook.cells]
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
