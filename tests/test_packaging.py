"""What is published: licence and citation, and a wheel that works far from the checkout."""

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import ssd_probe

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOLDERS = ("ssd_probe", "kernels", "analysis")
FILES = ("pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE",
         "NOTICE")  # fmt: skip
INSIDE = ("kernels/stats.py", "analysis/labels.py", "analysis/sweeps/published.json", "py.typed",
          "tiny/checkpoint/model.safetensors", "tiny/checkpoint/chat_template.jinja",
          "problems/basics.jsonl")  # fmt: skip
BUILD = "from setuptools import build_meta; print(build_meta.build_{}({!r}))"


def test_licence_version_and_citation_agree():
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence and "9. Accepting Warranty" in licence
    assert PROJECT["license"] == "Apache-2.0"
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["license"] == PROJECT["license"]
    assert cited["version"] == PROJECT["version"] == ssd_probe.__version__
    assert "2604.01193" in cited["references"][0]["identifiers"][0]["value"]


def test_type_checkers_are_told_of_every_lazy_export():
    tree = ast.parse((ROOT / "ssd_probe/__init__.py").read_text())
    told = {alias.asname: node.module for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module != "typing"
            for alias in node.names}  # fmt: skip
    assert told == ssd_probe._EXPORTS


@pytest.mark.slow  # mypy reads torch's sources: half a minute
def test_a_type_checker_understands_a_users_program(tmp_path):
    (tmp_path / "user.py").write_text(
        "import torch\nfrom ssd_probe import Decoding, position_stats\nDecoding(1.6, 20, 0.8)\n"
        "reveal_type(position_stats(torch.randn(2, 9)).entropy)\n"
    )
    options = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
    options += ["--cache-dir", tmp_path]  # no settings of folders above
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *map(str, options), tmp_path / "user.py"],
        cwd=tmp_path, env=os.environ | {"MYPYPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and "Tensor" in done.stdout, done.stdout + done.stderr


def build(kind: str, tree: Path, out: Path) -> Path:
    """`sdist` or `wheel` of a tree, with this environment's setuptools: nothing is fetched."""
    command = [sys.executable, "-c", BUILD.format(kind, str(out))]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """An sdist of a copy of the tree, and the wheel made from it, as front ends do it."""
    try:
        version = metadata.version("setuptools")
    except metadata.PackageNotFoundError:
        version = "0"
    if int(version.partition(".")[0]) < 77:
        pytest.skip(f"building needs setuptools 77 or newer here, not {version}")
    out = tmp_path_factory.mktemp("dist")
    tree = out / "tree"
    tree.mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, tree / name)
    compiled = shutil.ignore_patterns("__pycache__")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=compiled)
    sdist = build("sdist", tree, out)
    with tarfile.open(sdist) as archive:
        archive.extractall(out, filter="data")
    return sdist, build("wheel", out / sdist.name.removesuffix(".tar.gz"), out)


def test_sdist_and_wheel_hold_the_linked_folders_as_files(built):
    sdist, wheel = built
    with tarfile.open(sdist) as archive:
        packed = {m.name.partition("/")[2]: m for m in archive.getmembers()}
    assert all(m.isfile() or m.isdir() for m in packed.values())
    assert {"LICENSE", "NOTICE", "CITATION.cff"} <= packed.keys()
    assert not any(name.startswith("tests/") for name in packed)
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    for name in INSIDE:
        assert packed[f"ssd_probe/{name}"].isfile()
        assert sizes[f"ssd_probe/{name}"] == (ROOT / "ssd_probe" / name).stat().st_size
    assert {name.partition("/")[0].partition("-")[0] for name in sizes} == {"ssd_probe"}
    sources = {p.relative_to(ROOT).as_posix() for folder in ("kernels", "analysis")
               for p in (ROOT / folder).rglob("*.py")}  # fmt: skip
    assert {f"ssd_probe/{name}" for name in sources} <= sizes.keys()


@pytest.mark.slow  # an environment is made, and the quick demo runs in it: two minutes
@pytest.mark.skipif(not importlib.util.find_spec("ensurepip"), reason="Python without ensurepip")
def test_the_wheel_runs_demo_and_probe_outside_the_checkout(built, tmp_path):
    """Dependencies are those of this environment; ssd_probe is the wheel's."""
    home = tmp_path / "env"
    venv.create(home, with_pip=True)
    python, command = home / "bin" / "python", home / "bin" / "ssd-probe"
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*arguments) -> str:
        done = subprocess.run(
            [*map(str, arguments)], cwd=tmp_path, env=clean, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    run(python, "-m", "pip", "install", "--no-index", "--no-deps", "-q", built[1])
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    others = [path for path in sys.path if path.endswith("-packages")]
    (own / "dependencies.pth").write_text("\n".join(others))  # .pth files in there do not count
    where = "import ssd_probe, ssd_probe.kernels.stats as s; print(ssd_probe.__file__, s.__file__)"
    assert all(path.startswith(str(own)) for path in run(python, "-c", where).split())

    assert "pass@5 hard" in run(command, "demo", "--quick", "--out", "quick")
    assert (tmp_path / "quick" / "figures" / "fig_5.png").stat().st_size
    (tmp_path / "text.py").write_text("def add(a, b):\n    return a + b\n")
    assert "positions in probes" in run(command, "probe", "--text", "text.py", "--out", "probes")
