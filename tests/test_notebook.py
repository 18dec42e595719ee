"""Notebooks without a browser: pictures, what the widgets hold, and the panel's maths in node."""

import dataclasses
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from IPython.core.formatters import DisplayFormatter

import ssd_probe
from ssd_probe import Decoding, Probe, explore, position_stats, sliders
from ssd_probe.analysis import frames
from ssd_probe.analysis.curves import TEMPERATURES, entropy_by_mass_bin, truncation_curves
from ssd_probe.analysis.labels import COLORS, KINDS, SupportRule
from ssd_probe.commands.compare import compare_stage
from ssd_probe.commands.probe import probe_stage
from ssd_probe.errors import UserError
from ssd_probe.files.parts import part_file
from ssd_probe.probing.config import ProbeConfig
from ssd_probe.probing.table import write_table
from ssd_probe.views.blocks import Text, pack
from ssd_probe.views.notebook.library import Library
from ssd_probe.views.notebook.pictures import INK, labels_picture, stats_picture, text_picture
from ssd_probe.views.notebook.sliders import frames_of
from ssd_probe.views.page import settings_of
from ssd_probe.views.signs import visible
from tests.pages import HOSTILE, about, text_of, unpacked
from tests.probes import TRAIN, probe_of, random_logits
from tests.test_view_math import WEB

NODE = shutil.which("node")
TEXTS = ["for ada in range(3):\n    print(ada)\n", "x = 1\n", "y = max(2, 3)\nprint(y)\n"]


def luminance(color: str) -> float:
    """WCAG's, of #rrggbb."""
    parts = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.fixture(scope="module")
def probes(tmp_path_factory) -> Path:
    """Probes of the bundled model: `base`, `other` (the same texts), `cut` (fewer), `pair`."""
    folder = tmp_path_factory.mktemp("probes")
    (folder / "texts").mkdir()
    for i, text in enumerate(TEXTS):
        (folder / "texts" / f"{i}.py").write_text(text)
    for name, more in (
        ("base", {}),
        ("other", {}),
        ("cut", {"limit": 2}),
        ("pair", {"pair": "tiny"}),
    ):
        probe_stage("tiny", [str(folder / "texts")], folder / name, ProbeConfig(top_k=32), **more)
    return folder


class TestLibrary:
    def test_a_text_is_its_rows_of_the_frame_with_their_index(self, probes):
        probe = Probe.load(probes / "base")
        library = Library(probe)
        again = pd.concat([library[i].frame for i in (2, 0, 1)]).sort_index()
        pd.testing.assert_frame_equal(frames.unpacked(again), probe.frame)
        assert sum(library.lengths.values()) == len(probe) and len(library) == 3

    def test_of_several_parts(self, probes, tmp_path):
        """A probe of many texts has them; here the three texts, twice."""
        folder = tmp_path / "two"
        shutil.copytree(probes / "base", folder)
        old, new = part_file(folder, 0), part_file(folder, 1)
        table = pq.read_table(old)
        again = pa.array([f"again {name}" for name in table["sample_id"].to_pylist()])
        write_table(table.set_column(0, "sample_id", again), new)
        manifest = json.loads(old.with_suffix(".json").read_text())
        manifest["bytes"] = new.stat().st_size
        new.with_suffix(".json").write_text(json.dumps(manifest))
        record = json.loads((folder / "probe.json").read_text())
        record |= {"parts": 2, "rows": 2 * record["rows"]}
        (folder / "probe.json").write_text(json.dumps(record))
        probe = Probe.load(folder)
        library = Library(probe)
        assert len(library) == 6
        for number in (4, 1, 5, 0):
            rows = probe.frame[probe.frame["sample_id"] == [*library.lengths][number]]
            pd.testing.assert_frame_equal(frames.unpacked(library[number].frame), rows)
        drawn = library.sample(40).frame
        theirs = probe.frame.loc[drawn.index, [*drawn]]
        pd.testing.assert_frame_equal(frames.unpacked(drawn), theirs)
        assert {name.startswith("again") for name in drawn["sample_id"]} == {True, False}

    @pytest.mark.parametrize(("first", "second"), [("base", "cut"), ("cut", "base")])
    def test_other_texts_are_refused(self, probes, first, second):
        with pytest.raises(UserError, match="other texts or positions"):
            Library(Probe.load(probes / first), Probe.load(probes / second))

    def test_a_sample_is_without_replacement_in_order_and_the_same_for_both(self, probes):
        base = Probe.load(probes / "base")
        text = Library(base, Probe.load(probes / "other")).sample(9)
        assert len(text.frame) == 9 and text.frame.index.is_monotonic_increasing
        assert text.frame.index.is_unique and (text.other.index == text.frame.index).all()
        expected = base.frame.loc[text.frame.index, [*text.frame]]
        pd.testing.assert_frame_equal(frames.unpacked(text.frame), expected)
        assert len(Library(base).sample(10_000).frame) == len(base)


class TestExplore:
    def test_the_selection_is_rows_of_the_frame(self, probes):
        probe = Probe.load(probes / "base")
        viewer = explore(probe)
        assert viewer.selected.empty and [*viewer.selected] == [*probe.frame]
        name, rows = (
            "1",
            probe.frame[probe.frame["sample_id"] == probe.frame["sample_id"].unique()[1]],
        )
        name, first, last = rows["sample_id"].iloc[0], *rows["position"].iloc[[0, 2]].tolist()
        viewer.selection = {"text": name, "position": first, "first": first, "last": last}
        pd.testing.assert_frame_equal(viewer.selected, rows.iloc[:3])
        viewer.show(name, last)
        pd.testing.assert_frame_equal(viewer.selected, rows.iloc[2:3])
        assert viewer.selection == {"text": name, "position": last, "first": last, "last": last}
        for wrong in (("none", first, None), (name, first, 999), (name, -1, None)):
            with pytest.raises(UserError, match="no text with scored positions"):
                viewer.show(*wrong)

    def test_of_two_folders_rows_of_both_and_of_a_pair_its_own(self, probes):
        viewer = explore(probes / "base", probes / "other")
        name = next(iter(viewer._library.lengths))
        position = int(viewer._library[0].frame["position"].iloc[1])
        viewer.show(name, position)
        assert viewer.selected["model"].tolist() == ["base", "tuned"]
        assert viewer.selected["position"].tolist() == [position] * 2
        pair = explore(probes / "pair")
        pair.show(name, position)
        assert len(pair.selected) == 1 and "other_entropy" in pair.selected
        assert "other_top_ids" in unpacked(pair.data["first"]["block"])

    def test_the_first_text_goes_along_and_the_others_when_asked_for(self, probes, monkeypatch):
        viewer, sent = explore(probes / "base", ranks=99), []
        block = unpacked(viewer.data["first"]["block"])
        first = viewer._library[0].frame
        assert (block["token_id"] == first["token_id"]).all()
        assert viewer.data["meta"]["ranks"] == 32  # those that there are
        wanted = {str(i) for i in np.unique(np.stack(first["top_ids"]))}
        assert wanted <= set(viewer.data["first"]["names"]) | set(viewer.data["first"]["partial"])
        monkeypatch.setattr(
            viewer, "send", lambda content, buffers: sent.append((content, buffers))
        )
        viewer._asked(viewer, {"id": "a-0", "text": 2}, [])
        (content, (found,)), = sent  # fmt: skip
        assert content["id"] == "a-0" and len(unpacked(found)["token_id"]) == len(
            viewer._library[2].frame
        )

    def test_a_folder_that_is_gone_is_said_in_the_view(self, probes, tmp_path, monkeypatch):
        shutil.copytree(probes / "base", tmp_path / "base")
        viewer, sent = explore(tmp_path / "base"), []
        viewer._library = Library(Probe.load(tmp_path / "base"))
        shutil.rmtree(tmp_path / "base")
        monkeypatch.setattr(viewer, "send", lambda content, buffers: sent.append(content))
        viewer._asked(viewer, {"id": "a-0", "text": 1}, [])
        assert "missing or damaged" in sent[0]["error"] and "\n" not in sent[0]["error"]

    def test_what_is_refused(self, probes):
        with pytest.raises(UserError, match="ranks = 0"):
            explore(probes / "base", ranks=0)
        with pytest.raises(UserError, match="no such probe folder"):
            explore(probes / "none")
        with pytest.raises(UserError, match="other texts or positions"):
            explore(probes / "base", probes / "cut")


class TestSliders:
    def test_settings_are_a_decoding_both_ways(self, probes):
        panel = sliders(probes / "base")
        assert panel.decoding == SupportRule().decoding
        panel.settings = {"temperature": 0.7, "topK": 0, "topP": 0.9, "minP": 0}  # as the browser
        assert panel.decoding == Decoding(0.7, 0, 0.9)
        panel.decoding = Decoding(1.2, 32, 0.5)
        assert panel.settings == settings_of(Decoding(1.2, 32, 0.5))
        for wrong in (Decoding(2.5), Decoding(0.0), Decoding(1.0, 33)):
            with pytest.raises(UserError, match="the panel shows"):
                panel.decoding = wrong

    def test_it_holds_numbers_of_the_sample_and_says_so(self, probes):
        panel = sliders(probes / "base", probes / "other", positions=10)
        block = unpacked(panel.data["block"])
        assert len(block["entropy"]) == len(block["other_entropy"]) == 10
        assert not [name for name in block if name.endswith("top_ids")]
        whole = len(Probe.load(probes / "base"))
        assert f"10 of {whole} positions, drawn at random." in panel.data["meta"]["notes"]
        assert sliders(probes / "base").data["meta"]["notes"] == []

    def test_a_probe_without_a_valid_position_is_refused(self):
        text = text_of(["x"] * 3, np.full((3, 150), np.nan))
        with pytest.raises(UserError, match="no position of the probe is valid"):
            frames_of(text)


# Reads a block and what the panel knows, writes the curves and the summary of each side.
DRIVER = """
import { readFileSync } from "node:fs";
import { decode } from "%(web)s/block.js";
import { binsOf, point, rowsOf, summary } from "%(web)s/curves.js";
const asked = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { decodings, temperatures, allowed, rule } = asked;
const block = decode(new Uint8Array(readFileSync(asked.path)), 150);
const sides = [block.base, block.other].filter(Boolean), rows = rowsOf(sides);
const bins = binsOf(sides[0], rows, allowed);
console.log(JSON.stringify(decodings.map((d) => sides.map((side) => ({
  rows: rows.length,
  curve: temperatures.map((temperature) => point(side, rows, { ...d, temperature })),
  ...summary(side, rows, d, rule, bins, allowed.length + 1),
})))));
"""


@pytest.mark.skipif(NODE is None, reason="no node (Debian: nodejs) on this machine")
def test_the_panel_s_numbers_are_python_s(probes, tmp_path):
    logits = random_logits(300)
    moved = logits + np.random.default_rng(3).normal(size=logits.shape)
    logits[9], moved[[5, 9]] = np.nan, np.nan  # valid in one, in none
    text = text_of(["x"] * len(logits), logits, other=moved)
    wide = [frame.assign(**probe_of(z)[["top_ids", "top_logits", "tail_log_mass"]])
            for frame, z in ((text.frame, logits), (text.other, moved))]  # fmt: skip
    text = Text("s", "p", *wide)
    (tmp_path / "block").write_bytes(pack(text, 64, ids=False))
    decodings = [TRAIN, Decoding(0.8, 5, 0.9), Decoding(1.0, 20, 1.0), Decoding(1.3, 60, 0.95),
                 Decoding(1.3)]  # fmt: skip
    meta = sliders(probes / "base").data["meta"]
    asked = {name: meta[name] for name in ("temperatures", "allowed", "rule")}
    asked |= {"path": str(tmp_path / "block"), "decodings": [settings_of(d) for d in decodings]}
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    (tmp_path / "driver.mjs").write_text(DRIVER % {"web": WEB.as_uri()})
    run = subprocess.run([str(NODE), tmp_path / "driver.mjs", tmp_path / "asked.json"],
                         capture_output=True, text=True)  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    frames = frames_of(text)
    assert len(frames["base"]) == len(logits) - 2
    *answers, untruncated = json.loads(run.stdout)
    for told in untruncated:  # what Python refuses is marked
        assert not told["exact"] and not any(point["exact"] for point in told["curve"])
        with pytest.raises(UserError, match="not within"):
            truncation_curves(frames["base"], top_k=0, top_p=1.0)
    for decoding, sides in zip(decodings[:-1], answers, strict=True):
        rule = dataclasses.replace(SupportRule(), decoding=decoding)
        for frame, told in zip(frames.values(), sides, strict=True):
            assert told["rows"] == len(frame) and told["exact"]
            curve = truncation_curves(frame, TEMPERATURES, decoding.top_k, decoding.top_p)
            for name in ("survivors", "entropy"):
                assert np.allclose([p[name] for p in told["curve"]], curve[name], atol=1e-5)
            bins = entropy_by_mass_bin(frame, decoding, binned_by=frames["base"])
            assert [b["positions"] for b in told["byBin"]] == bins["positions"].tolist()
            entropies = np.array([b["entropy"] for b in told["byBin"]], float)
            assert np.allclose(entropies, bins["entropy"], atol=1e-5, equal_nan=True)
            counts = rule.label(frame).value_counts().to_dict()
            assert told["labels"] == counts and len(counts) > 2
    assert meta["bins"] == bins["bin"].tolist()


@pytest.mark.skipif(NODE is None, reason="no node (Debian: nodejs) on this machine")
@pytest.mark.parametrize("make", [explore, sliders])
def test_the_joined_modules_are_one_that_a_browser_reads(make, probes, tmp_path):
    code = make(probes / "base")._esm
    (tmp_path / "widget.mjs").write_text(code)
    subprocess.run([str(NODE), "--check", tmp_path / "widget.mjs"], check=True)
    assert code.count("export default") == code.count("export ") and "import {" not in code


class Parsed(HTMLParser):
    """The tags, attributes and text of a page; a tag that is never closed fails."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text, self.open = "", []
        html.encode("utf-8")  # no half characters
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


INERT = {"div", "span", "p", "strong", "small", "code", "br", "table", "thead", "tbody", "tr", "th",
         "td", "ul", "li", "details", "summary", "img"}  # fmt: skip


def inert(html: str) -> Parsed:
    found = Parsed(html)
    assert found.tags <= INERT and found.attributes <= {"style", "title", "src", "alt"}
    return found


@pytest.fixture
def shell() -> SimpleNamespace:
    shell = SimpleNamespace(display_formatter=DisplayFormatter())
    ssd_probe.load_ipython_extension(shell)
    return shell


def shown(shell, thing: object) -> str | None:
    return shell.display_formatter.format(thing)[0].get("text/html")


class TestPictures:
    def test_of_each_kind_after_load_ext_and_none_after_unload(self, shell, probes):
        probe = Probe.load(probes / "base")
        labels = SupportRule().label(probe.frame)
        compared = compare_stage(probes / "base", probes / "other", None, TRAIN)[0]
        stats = position_stats(torch.tensor(random_logits(30)).float(), top_k=10)
        pair = Probe.load(probes / "pair")
        things = (probe, pair, Decoding(1.6, 20, 0.8), compared, labels, stats)
        told = [inert(shown(shell, thing)).text for thing in things]
        assert f"positions{len(probe)}" in told[0] and TEXTS[0].split()[1] in told[0]
        assert "tiny → tiny" in told[1]
        assert "qwen3-4b-instruct (train)" in told[2] and "top-k 20" in told[2]
        assert "locks lost their tail" in told[3] and "tail mass" in told[3]
        assert f"lock{(labels == 'lock').sum()}" in told[4].replace("\xa0", "")
        assert "30 positions" in told[5] and "The first 20 of 30 positions" in told[5]
        ssd_probe.unload_ipython_extension(shell)
        for thing in (probe, Decoding(), compared, labels, stats):
            assert shown(shell, thing) is None

    def test_a_series_that_is_no_labels_stays_text(self, shell):
        for series in (pd.Series([1, 2], name="label"), pd.Series(["lock"], name="kind"),
                       pd.Series(["lock", "key"], name="label"), pd.Series([], name="label"),
                       pd.Series([None, "lock"], name="label")):  # fmt: skip
            assert shown(shell, series) is None

    def test_labels_are_counted(self):
        labels = pd.Series([*["lock"] * 5, *["fork"] * 3, "open", "open"], name="label")
        text = inert(labels_picture(labels)).text.replace("\xa0", "")
        assert "lock550.0 %fork330.0 %open220.0 %neither00.0 %" in text and "lllllfffoo" in text

    @pytest.mark.parametrize("kind", COLORS)
    def test_labels_are_read_on_their_colours(self, kind):
        """Both colours are set, so that they are the same on light ground and on dark."""
        ink, ground = luminance(INK), luminance(COLORS[kind])
        assert (ground + 0.05) / (ink + 0.05) >= 4.5  # WCAG AA
        looks = f"color:{INK};background-color:{COLORS[kind]}"
        assert looks in labels_picture(pd.Series([kind], name="label"))

    def test_stats_show_their_numbers_and_rows_that_are_not_valid(self):
        logits = torch.log(torch.tensor([[0.5, 0.25, 0.125, 0.125], [torch.nan, 1, 1, 1]]))
        text = inert(stats_picture(position_stats(logits, top_k=2))).text
        assert "1.213" in text and "0: 0.5" in text and "1: 0.25" in text and "2.50e-01" in text
        assert "1not valid" in text

    def test_greedy_and_open_decodings(self, shell):
        assert "greedy" in shown(shell, Decoding(0.0)) and "In the paper" not in shown(
            shell, Decoding(0.3)
        )
        assert inert(shown(shell, Decoding())).text.count("off") == 2

    def test_hostile_tokens_are_text(self):
        text = text_of(
            HOSTILE, random_logits(len(HOSTILE)), name="</code><script>alert(1)</script>"
        )
        page = about(title="</strong><img src=x onerror=alert(1)>", notes=["<b>"])
        found = inert(text_picture(text, page))
        assert "img" not in found.tags and "src" not in found.attributes
        for token in HOSTILE[:6]:
            assert token in found.text
        assert (
            "‹U+202E›evil" in found.text and "‹U+200B›" in found.text and len(found.text) < 30_000
        )
        assert visible("\ud800a\x00") == "‹U+D800›a‹U+0000›"

    def test_a_probe_with_few_ranks_says_what_is_missing(self, probes, tmp_path):
        probe_stage("tiny", [str(probes / "texts/0.py")], tmp_path / "few", ProbeConfig(top_k=5))
        for drawing in (explore(tmp_path / "few").drawing(), sliders(tmp_path / "few").drawing()):
            assert "5 ranks" in inert(drawing).text

    def test_the_panel_s_picture_is_figures_and_shares(self, probes):
        panel = sliders(probes / "base", probes / "other")
        found = inert(panel.drawing())
        assert "img" in found.tags and "Labels, tuned:" in found.text
        assert all(found.text.count(f"\xa0{kind}\xa0") == 2 for kind in KINDS)


def test_without_anywidget_one_line_says_what_to_install(probes, monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    for make in (explore, sliders):
        with pytest.raises(UserError, match=r"anywidget.*pip install 'ssd-probe\[notebook\]'"):
            make(probes / "base")


def test_imports_stay_light():
    code = """
import sys, ssd_probe
ssd_probe.load_ipython_extension
print({"torch", "anywidget", "IPython"} & set(sys.modules))
from ssd_probe import Probe, explore, sliders
print({"anywidget", "IPython", "ipywidgets", "matplotlib"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()", "set()"]
