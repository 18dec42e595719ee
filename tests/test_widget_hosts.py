"""What anywidget asks of a widget wherever it is shown: VS Code and Colab cannot be run here.

A host gives `render({model, el})` and takes back a function that ends the view; it may put each
cell into a frame of its own, forbid what a page may load, and show several widgets on a page.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ssd_probe import explore, sliders
from ssd_probe.commands.probe import probe_stage
from ssd_probe.probing.config import ProbeConfig
from ssd_probe.views.notebook.explorer import Explorer
from ssd_probe.views.notebook.sliders import Sliders

WIDGETS = [Explorer, Sliders]
NODE = shutil.which("node")
METHODS = {"get", "set", "save_changes", "on", "off", "send"}  # of a model, in any host
FORBIDDEN = r"\b(eval|fetch|importScripts|localStorage|sessionStorage|XMLHttpRequest|WebSocket)\b"


def without_comments(code: str) -> str:
    return re.sub(r"(?m)^\s*//.*$|\s//\s.*$", "", code)


@pytest.mark.parametrize("widget", WIDGETS)
class TestModule:
    def test_it_is_one_that_loads_nothing(self, widget):
        code = without_comments(widget._esm)
        assert not re.search(r"\bimport\b\s*[({\"'*\w]", code)
        assert not re.search(FORBIDDEN, code) and "new Function" not in code
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", code)

    def test_of_the_model_only_what_every_host_has(self, widget):
        used = set(re.findall(r"\bmodel\.(\w+)", without_comments(widget._esm)))
        assert used <= METHODS and {"get", "on", "off"} <= used

    @pytest.mark.skipif(NODE is None, reason="no node (Debian: nodejs) on this machine")
    def test_its_default_export_renders(self, widget, tmp_path):
        (tmp_path / "widget.mjs").write_text(widget._esm)
        asked = (
            f"import found from '{(tmp_path / 'widget.mjs').as_uri()}';"
            "console.log(Object.keys(found).join(), found.render.length)"
        )
        command = [str(NODE), "--input-type=module", "--eval", asked]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert told.split() == ["render", "1"]

    def test_its_styles_reach_nothing_else_on_the_page(self, widget):
        css = re.sub(r"@media [^{]+\{((?:[^{}]*\{[^{}]*\})*)\s*\}", r"\1", widget._css)
        selectors = [each.strip() for rule in re.findall(r"([^{}]+)\{", css)
                     for each in rule.split(",")]  # fmt: skip
        assert len(selectors) > 50
        assert [each for each in selectors if not each.startswith(".ssd-viewer")] == []


@pytest.fixture(scope="module")
def probe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hosts")
    (folder / "t.py").write_text("for ada in range(3):\n    print(ada)\n")
    probe_stage("tiny", [str(folder / "t.py")], folder / "base", ProbeConfig(top_k=32))
    return folder / "base"


@pytest.mark.parametrize("make", [explore, sliders])
def test_colab_is_told_where_its_widgets_come_from(make, probe, monkeypatch):
    """anywidget's note in the output's metadata; a view that drops it stays empty there."""
    asked, shown = [], []
    colab = SimpleNamespace(
        enable_custom_widget_manager=lambda: asked.append(True),
        _widgets=SimpleNamespace(_installed_url="https://example.org/manager.js"),
    )
    monkeypatch.setitem(sys.modules, "google.colab.output", colab)
    monkeypatch.setattr("IPython.display.display", lambda data, **more: shown.append((data, more)))
    make(probe)._ipython_display_()
    (picture, _), (bundle, more) = shown
    assert "text/html" in picture
    (kind,) = (kind for kind in bundle if "widget-view" in kind)
    note = more["metadata"][kind]["colab"]["custom_widget_manager"]
    assert note == {"url": "https://example.org/manager.js"}
