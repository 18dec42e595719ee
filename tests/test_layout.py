"""The one-way rule: core <- kernels <- probe <- analysis <- figures <- views <- cli."""

import ast
import os
from pathlib import Path

import pytest

import ssd_probe

ROOT = Path(__file__).parents[1]
SHARED = ("kernels", "analysis")  # folders at the root, symlinks in the package
LAYERS = {  # lowest first; a module may import its own layer and those above it in this table
    "core": {"__init__", "decoding", "errors", "run", "data", "checkpoints", "sample", "train",
             "problems", "livecodebench", "lanes", "tiny", "texts", "weights", "parts",
             "evaluate", "judge", "oracle", "candidate", "sandbox", "seccomp"},
    "kernels": {"kernels"},
    "probe": {"probe", "syntax", "forward", "heads", "table", "writer", "pairs", "trust"},
    "analysis": {"analysis"},
    "figures": {"figures", "change_figures", "draw_probes", "sweep_figures", "step_figures",
                "temperature_figures", "draw_sweeps", "toy_figures", "predict_figures"},
    "views": {"comparison", "evaluation", "demo", "doctor", "report", "stages", "story", "grid",
              "sweep"},
    "cli": {"cli", "cli_analysis", "cli_evaluate", "cli_predict", "cli_sweep", "options"},
}  # fmt: skip
LEVEL = {name: i for i, names in enumerate(LAYERS.values()) for name in names}


def imported(source: str, package: str) -> set[str]:
    """Dotted names that `source`, a module of `package`, imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            # `from ssd_probe import X` names a module, or an object that __init__ loads lazily.
            names |= {
                ssd_probe._EXPORTS.get(alias.name, f"ssd_probe.{alias.name}")
                if origin == "ssd_probe" else origin
                for alias in node.names
            }  # fmt: skip
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names |= {arg.value for arg in node.args[:1]
                      if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}  # fmt: skip
    return names


def modules(root: Path) -> dict[str, Path]:
    """Every source file under its dotted name; the shared folders are read where they lie."""
    found = {}
    for folder in ("ssd_probe", *SHARED):
        for directory, _, files in os.walk(root / folder):  # does not follow the symlinks
            for path in (Path(directory, name) for name in files if name.endswith(".py")):
                name = ".".join(path.relative_to(root).with_suffix("").parts)
                found[f"ssd_probe.{name}" if folder in SHARED else name] = path
    return found


def violations(root: Path) -> list[str]:
    problems = []
    for name, path in sorted(modules(root).items()):
        unit = name.split(".")[1]
        if unit not in LEVEL:
            problems.append(f"{name}: in no layer; add it to LAYERS")
            continue
        for target in sorted(imported(path.read_text(), name.rpartition(".")[0])):
            top, _, rest = target.partition(".")
            if top in SHARED:
                problems.append(f"{name} imports {target}: write ssd_probe.{target}")
            elif top == "ssd_probe" and rest:
                other = rest.split(".")[0]
                if other in LEVEL and LEVEL[other] > LEVEL[unit]:
                    problems.append(f"{name} imports {target}: upward")
    for folder in SHARED:
        if (root / folder / "__init__.py").exists():
            problems.append(f"{folder}/__init__.py: must not exist")
        link = root / "ssd_probe" / folder
        if not link.is_symlink() or os.readlink(link) != f"../{folder}":
            problems.append(f"ssd_probe/{folder}: must be a symlink to ../{folder}")
    return problems


def test_the_project_keeps_the_rule():
    assert len(modules(ROOT)) > 3
    assert violations(ROOT) == []


def write_tree(root: Path, files: dict[str, str]) -> None:
    for folder in ("ssd_probe", *SHARED):
        (root / folder).mkdir()
    for folder in SHARED:
        (root / "ssd_probe" / folder).symlink_to(f"../{folder}")
    for name, text in files.items():
        (root / name).write_text(text)


@pytest.mark.parametrize(("file", "text", "problem"), [
    ("ssd_probe/data.py", "import ssd_probe.cli", "ssd_probe.data imports ssd_probe.cli: upward"),
    ("ssd_probe/run.py", "from . import probe", "ssd_probe.run imports ssd_probe.probe: upward"),
    ("ssd_probe/sample.py", "def f():\n    from ssd_probe.probe import Probe",
     "ssd_probe.sample imports ssd_probe.probe: upward"),
    ("ssd_probe/train.py", "from ssd_probe import Probe",
     "ssd_probe.train imports ssd_probe.probe: upward"),
    ("kernels/stats.py", "from ..probe import Probe",
     "ssd_probe.kernels.stats imports ssd_probe.probe: upward"),
    ("kernels/cpu.py", "import importlib\nimportlib.import_module('ssd_probe.figures')",
     "ssd_probe.kernels.cpu imports ssd_probe.figures: upward"),
    ("analysis/labels.py", "import kernels.stats",
     "ssd_probe.analysis.labels imports kernels.stats: write ssd_probe.kernels.stats"),
    ("ssd_probe/figures.py", "from ssd_probe import report",
     "ssd_probe.figures imports ssd_probe.report: upward"),
    ("ssd_probe/helpers.py", "", "ssd_probe.helpers: in no layer; add it to LAYERS"),
    ("kernels/__init__.py", "", "kernels/__init__.py: must not exist"),
])  # fmt: skip
def test_the_checker_sees(tmp_path, file, text, problem):
    write_tree(tmp_path, {file: text})
    assert problem in violations(tmp_path)


def test_the_checker_allows_what_is_downward_and_sees_a_missing_link(tmp_path):
    write_tree(tmp_path, {
        "ssd_probe/cli.py": "import torch\nfrom . import __version__, report\nimport ssd_probe",
        "ssd_probe/probe.py": "from .kernels.stats import position_stats\nfrom .syntax import x",
        "analysis/theory.py": "from ssd_probe import Decoding\nfrom .labels import y",
        "kernels/stats.py": "from ssd_probe.decoding import Decoding\nfrom . import reference",
    })  # fmt: skip
    assert violations(tmp_path) == []
    (tmp_path / "ssd_probe/kernels").unlink()
    assert violations(tmp_path) == ["ssd_probe/kernels: must be a symlink to ../kernels"]
