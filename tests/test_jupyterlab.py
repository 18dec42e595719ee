"""The widgets in a real JupyterLab, in Debian's Chromium: one server, one notebook, run once."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

from ssd_probe.commands.probe import probe_stage
from ssd_probe.decoding import Decoding
from ssd_probe.probing.config import ProbeConfig
from ssd_probe.probing.table import Probe
from ssd_probe.views.notebook.widget import NOTE
from tests.browser import serious_faults

pytest.importorskip("jupyterlab", reason="needs jupyterlab, of ssd-probe[dev]")
pytestmark = [
    pytest.mark.slow(reason="two servers, a kernel and a browser: half a minute"),
    pytest.mark.xdist_group("jupyterlab"),
]
TEXTS = ["for ada in range(3):\n    print(ada)\n", "x = 1\ny = max(2, x)\n"]
SETTINGS = {  # nothing is fetched or asked
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
CELLS = [
    "%load_ext ssd_probe\nfrom ssd_probe import Decoding, explore, sliders",
    "viewer = explore('base', 'other')\nviewer",
    "panel = sliders('base', 'other')\npanel",
    "Decoding(1.6, 20, 0.8)",
    "print(viewer.selected[['model', 'sample_id', 'position']].to_json(orient='split'))",
    "viewer.show(viewer.selected['sample_id'].iloc[0], 1)",
    "print(panel.decoding)",
    "panel.decoding = Decoding(0.5, 3, 0.4)",
]
SELECTED, SHOW, SETTING, SET = range(4, 8)


@contextmanager
def served(root: Path, *options: str) -> Iterator[str]:
    """The address of a JupyterLab whose files and settings are all below `root`."""
    folders = {f"JUPYTER_{name}_DIR": name.lower() for name in ("CONFIG", "DATA", "RUNTIME")}
    folders |= {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
    environment = {name: str(root / ".jupyter" / folder) for name, folder in folders.items()}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    runtime = root / ".jupyter/runtime"
    for old in runtime.glob("jpserver-*.json"):
        old.unlink()
    with (root / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0",
             "--ip=127.0.0.1", "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True",
             "--LabApp.extension_manager=readonly", f"--ServerApp.root_dir={root}", *options],
            env=os.environ | environment, cwd=root, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            yield _address(server, runtime)
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:  # it waits for a kernel that is just beginning
                server.kill()
                server.wait()


def _address(server: subprocess.Popen, runtime: Path) -> str:
    for _ in range(600):
        assert server.poll() is None, (runtime.parents[1] / "server.log").read_text()[-2000:]
        for file in runtime.glob("jpserver-*.json"):
            return json.loads(file.read_text())["url"]
        time.sleep(0.1)
    raise AssertionError("no server after a minute")


class Lab(NamedTuple):
    """A notebook in a browser."""

    page: object
    root: Path

    def run(self, number: int) -> str:
        """Run a cell; what it printed."""
        return self.page.evaluate(
            """async (number) => {
                 const { content } = jupyterapp.shell.currentWidget;
                 content.activeCellIndex = number;
                 await jupyterapp.commands.execute("notebook:run-cell");
                 return content.widgets[number].model.sharedModel.getOutputs()
                   .map((output) => [output.text ?? []].flat().join("")).join("");
               }""",
            number,
        )

    def reads(self, number: int, right: Callable[[str], bool]) -> str:
        """What a cell printed as soon as it is `right`, or after 30 seconds.

        Widgets keep back what changes while an earlier change is under way, so a cell that is
        run at once may be run before it.
        """
        until = time.monotonic() + 30
        while not right(told := self.run(number).strip()) and time.monotonic() < until:
            time.sleep(0.1)
        return told

    def selected(self, index: list[int]) -> dict:
        """The selection in Python, as soon as it is the rows `index`."""
        return json.loads(self.reads(SELECTED, lambda told: json.loads(told)["index"] == index))

    def cell(self, number: int):
        return self.page.locator(".jp-Notebook .jp-Cell").nth(number)


def opened(browser, url: str) -> Iterator:
    context = browser.new_context(viewport={"width": 1200, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"{url}lab/tree/nb.ipynb")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    return page


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with two probes, a notebook, and settings."""
    root = tmp_path_factory.mktemp("lab")
    (root / "texts").mkdir()
    for i, text in enumerate(TEXTS):
        (root / "texts" / f"{i}.py").write_text(text)
    for name in ("base", "other"):
        probe_stage("tiny", [str(root / "texts")], root / name, ProbeConfig(top_k=32))
    for name, content in SETTINGS.items():
        path = root / ".jupyter/settings/@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(book, root / "nb.ipynb")
    return root


@pytest.fixture(scope="module")
def lab(root, browser) -> Iterator[Lab]:
    """The notebook with its first cells run."""
    with served(root) as url:
        page = opened(browser, url)
        lab = Lab(page, root)
        page.wait_for_function(
            "jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        )
        for number in range(4):
            lab.run(number)
        page.wait_for_selector(".ssd-viewer .token")
        page.wait_for_selector(".ssd-viewer.panel figure")
        yield lab
        page.context.close()


def test_the_selection_comes_back_to_python_and_goes_there(lab):
    frame = Probe.load(lab.root / "base").frame
    lab.page.click("#token-3")
    lab.page.click("#token-6", modifiers=["Shift"])
    rows = frame[frame["sample_id"] == frame["sample_id"].iloc[0]].iloc[3:7]
    told = lab.selected([*rows.index, *rows.index])
    assert [row[0] for row in told["data"]] == ["base"] * 4 + ["tuned"] * 4
    assert [row[1:] for row in told["data"][:4]] == rows[
        ["sample_id", "position"]
    ].to_numpy().tolist()
    assert told["index"] == [*rows.index, *rows.index]
    lab.run(SHOW)
    lab.page.wait_for_selector("#token-0.selected")
    assert [row[2] for row in lab.selected([rows.index[0] - 3] * 2)["data"]] == [1, 1]


def test_its_keys_are_not_jupyterlab_s_and_other_texts_come(lab):
    cells = lab.page.locator(".jp-Notebook .jp-Cell").count()
    lab.page.click("#token-2")
    for key in ("a", "b", "l", "ArrowRight"):
        lab.page.keyboard.press(key)
    assert lab.page.locator(".jp-Notebook .jp-Cell").count() == cells
    lab.page.keyboard.press("]")  # the second text, which the kernel sends
    lab.page.wait_for_function("document.querySelector('.ssd-viewer select').value === '1'")
    lab.page.click("#token-4")
    frame = Probe.load(lab.root / "base").frame
    second = frame[frame["sample_id"] != frame["sample_id"].iloc[0]]
    chosen = [second.index[4]] * 2
    assert lab.selected(chosen)["index"] == chosen


def test_the_panel_s_settings_are_python_s(lab):
    panel = lab.page.locator(".ssd-viewer.panel")
    panel.get_by_role("slider", name="top-k").fill("7")
    panel.get_by_role("slider", name="T", exact=True).fill("1.2")
    lab.page.wait_for_selector(".panel caption:has-text('T=1.2, top-k 7, top-p 0.8')")
    chosen = str(Decoding(1.2, 7, 0.8))
    assert lab.reads(SETTING, lambda told: told == chosen) == chosen
    lab.run(SET)
    lab.page.wait_for_selector(".panel caption:has-text('T=0.5, top-k 3, top-p 0.4')")
    assert panel.locator("output").all_inner_texts() == ["0.5", "3", "0.4"]
    kept = float(panel.locator("tr:has-text('surviving tokens') td").first.inner_text())
    sizes = Probe.load(lab.root / "base").stats().support_size(Decoding(0.5, 3, 0.4))
    assert kept == pytest.approx(sizes.double().mean().item(), rel=1e-3)


def test_the_panel_is_accessible(lab):
    assert serious_faults(lab.page, ".ssd-viewer.panel") == []


def test_the_live_view_stands_for_the_picture(lab):
    for number in (1, 2):
        assert lab.cell(number).locator(".ssd-viewer").is_visible()
        assert lab.cell(number).get_by_text("A picture:").is_hidden()
    assert "top-k" in lab.cell(3).locator(".jp-OutputArea-output").inner_text()


def test_a_saved_notebook_shows_its_pictures_without_a_kernel(lab, browser):
    lab.page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    with served(lab.root, "--KernelSpecManager.allowed_kernelspecs=none",
                "--KernelSpecManager.ensure_native_kernel=False") as url:  # fmt: skip
        page = opened(browser, url)
        saved = Lab(page, lab.root)
        page.locator(".jp-Dialog button", has_text="No Kernel").click()
        for number, words in ((1, "range"), (2, "Labels, tuned:")):
            told = saved.cell(number).locator(".jp-OutputArea").inner_text()
            assert words in told and told.strip().endswith(NOTE)  # and no word of a widget
        assert saved.cell(2).locator("img").evaluate("(image) => image.naturalWidth") > 300
        assert page.locator(".ssd-viewer").count() == 0
        page.context.close()
