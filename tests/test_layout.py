"""One folder an idea, and arrows one way: what may import what, read from the source with `ast`."""

import ast
import os
from itertools import pairwise
from pathlib import Path

import pytest

import ssd_probe

ROOT = Path(__file__).parents[1]
SHARED = ("kernels", "analysis")  # folders at the root, symlinks in the package
LAYERS = (  # lowest first: imports go down, or sideways
    {"errors", "decoding", "config_fields", "executors"},
    {"files", "kernels", "tiny"},
    {"problems", "models"},
    {"core", "engines", "execution", "probing", "analysis", "policies"},
    {"figures", "views", "watching"},
    {"commands"},
    {"cli"},
)
LEVEL = {name: i for i, names in enumerate(LAYERS) for name in names}
FORBIDDEN = {  # sideways and down
    "kernels": {"files", "tiny"},
    "execution": {"models", "core", "kernels", "probing", "analysis"},
    "core": {"engines", "execution", "probing"},
    "engines": {"execution", "probing", "analysis"},
    "policies": {"core", "engines", "execution", "probing"},
    "analysis": {"policies"},
    "probing": {"core", "execution"},
    "figures": {"probing", "files", "views", "watching"},
    "views": {"models", "watching"},
    "watching": {"core", "execution", "views"},
}
FILES_A_FOLDER = 13


def package_of(name: str, path: Path) -> str:
    return name if path.name == "__init__.py" else name.rpartition(".")[0]


def imported(source: str, package: str) -> set[str]:
    """Dotted names that `source`, a module of `package`, imports, also inside functions.

    Of `from A import B` both A and A.B: B may be a module or a name in A.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                if origin == "ssd_probe":  # a module, or an object that __init__ loads lazily
                    names.add(ssd_probe._EXPORTS.get(alias.name, f"ssd_probe.{alias.name}"))
                else:
                    names |= {origin, f"{origin}.{alias.name}"}
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
                name = name.removesuffix(".__init__")
                found[f"ssd_probe.{name}" if folder in SHARED else name] = path
    return found


def arrows(root: Path) -> dict[str, set[str]]:
    """Which modules of the package each one imports."""
    found = modules(root)
    return {
        name: imported(path.read_text(), package_of(name, path)) & found.keys() - {name}
        for name, path in found.items()
    }


def violations(root: Path) -> list[str]:
    problems = []
    for name, path in sorted(modules(root).items()):
        unit = name.partition(".")[2].partition(".")[0]
        if unit and unit not in LEVEL:
            problems.append(f"{name}: in no folder of LAYERS; put it into one")
            continue
        for target in sorted(imported(path.read_text(), package_of(name, path))):
            top, _, rest = target.partition(".")
            other = rest.partition(".")[0]
            if top in SHARED:
                problems.append(f"{name} imports {target}: write ssd_probe.{target}")
            elif top == "ssd_probe" and unit and other in LEVEL:
                if LEVEL[other] > LEVEL[unit]:
                    problems.append(f"{name} imports {target}: upward")
                elif other in FORBIDDEN.get(unit, ()):
                    problems.append(f"{name} imports {target}: {unit} must not know {other}")
    for folder in SHARED:
        if (root / folder / "__init__.py").exists():
            problems.append(f"{folder}/__init__.py: must not exist")
        link = root / "ssd_probe" / folder
        if not link.is_symlink() or os.readlink(link) != f"../{folder}":
            problems.append(f"ssd_probe/{folder}: must be a symlink to ../{folder}")
    return problems


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A path along the arrows that ends where it begins, or []."""
    done: set[str] = set()
    for start in sorted(graph):
        path, waiting = [start], [sorted(graph[start] - done)]
        while path:
            if not waiting[-1]:
                done.add(path.pop())
                waiting.pop()
            elif (step := waiting[-1].pop()) in path:
                return [*path[path.index(step) :], step]
            elif step not in done:
                path.append(step)
                waiting.append(sorted(graph[step] - done))
    return []


def by_folder(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same arrows between folders."""
    units = {name: name.partition(".")[2].partition(".")[0] for name in graph}
    found: dict[str, set[str]] = {unit: set() for unit in units.values()}
    for name, targets in graph.items():
        found[units[name]] |= {units[target] for target in targets} - {units[name], ""}
    return found


def test_the_project_keeps_the_rule():
    assert len(modules(ROOT)) > 90
    assert violations(ROOT) == []


def test_no_module_and_no_folder_imports_itself_by_a_detour():
    graph = arrows(ROOT)
    assert sum(map(len, graph.values())) > 200
    assert circle(graph) == []
    assert circle(by_folder(graph)) == []


def test_no_folder_is_a_drawer_for_everything():
    folders = {path.parent for path in modules(ROOT).values()}
    assert len(folders) > 12
    for folder in folders:
        files = [file for file in folder.glob("*.py") if file.name != "__init__.py"]
        assert len(files) <= FILES_A_FOLDER, folder


def test_every_folder_says_in_a_sentence_what_it_is():
    for folder in {path.parent for path in modules(ROOT).values()} - {ROOT / f for f in SHARED}:
        sentence = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert sentence and sentence.splitlines()[0].endswith((".", "?")), folder


def write_tree(root: Path, files: dict[str, str]) -> None:
    for folder in ("ssd_probe", *SHARED):
        (root / folder).mkdir()
    for folder in SHARED:
        (root / "ssd_probe" / folder).symlink_to(f"../{folder}")
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(("file", "text", "problem"), [
    ("ssd_probe/files/reading.py", "import ssd_probe.cli",
     "ssd_probe.files.reading imports ssd_probe.cli: upward"),
    ("ssd_probe/models/weights.py", "from ..probing import probe",
     "ssd_probe.models.weights imports ssd_probe.probing: upward"),
    ("ssd_probe/core/sample.py", "def f():\n    from ssd_probe.probing.probe import Probe",
     "ssd_probe.core.sample imports ssd_probe.probing.probe: core must not know probing"),
    ("ssd_probe/core/train.py", "from ssd_probe import Probe",
     "ssd_probe.core.train imports ssd_probe.probing.table: core must not know probing"),
    ("kernels/stats.py", "from ..probing.table import Probe",
     "ssd_probe.kernels.stats imports ssd_probe.probing.table: upward"),
    ("kernels/cpu/stats.py", "import importlib\nimportlib.import_module('ssd_probe.files.parts')",
     "ssd_probe.kernels.cpu.stats imports ssd_probe.files.parts: kernels must not know files"),
    ("analysis/labels.py", "import kernels.stats",
     "ssd_probe.analysis.labels imports kernels.stats: write ssd_probe.kernels.stats"),
    ("ssd_probe/figures/style.py", "from ssd_probe import views",
     "ssd_probe.figures.style imports ssd_probe.views: figures must not know views"),
    ("ssd_probe/figures/__init__.py", "from .. import commands",
     "ssd_probe.figures imports ssd_probe.commands: upward"),
    ("ssd_probe/helpers.py", "", "ssd_probe.helpers: in no folder of LAYERS; put it into one"),
    ("kernels/__init__.py", "", "kernels/__init__.py: must not exist"),
])  # fmt: skip
def test_the_checker_sees(tmp_path, file, text, problem):
    write_tree(tmp_path, {file: text})
    assert problem in violations(tmp_path)


def test_the_checker_allows_what_is_downward_and_sees_a_missing_link(tmp_path):
    write_tree(tmp_path, {
        "ssd_probe/cli/app.py": "import torch\nfrom .. import __version__\nimport ssd_probe",
        "ssd_probe/probing/probe.py": "from ..kernels.stats import x\nfrom .syntax import x",
        "analysis/theory.py": "from ssd_probe import Decoding\nfrom .labels import y",
        "kernels/stats.py": "from ssd_probe.decoding import Decoding\nfrom . import reference",
    })  # fmt: skip
    assert violations(tmp_path) == []
    (tmp_path / "ssd_probe/kernels").unlink()
    assert violations(tmp_path) == ["ssd_probe/kernels: must be a symlink to ../kernels"]


def test_the_checker_sees_a_circle_through_a_lazy_import(tmp_path):
    write_tree(tmp_path, {
        "kernels/a.py": "from ssd_probe.kernels.b import x",
        "kernels/b.py": "def f():\n    from ssd_probe.kernels import c",
        "kernels/c.py": "from ssd_probe.kernels import a",
    })  # fmt: skip
    found = circle(arrows(tmp_path))
    assert len(found) == 4 and found[0] == found[-1]
    graph = arrows(tmp_path)
    assert all(there in graph[here] for here, there in pairwise(found))
