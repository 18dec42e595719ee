"""`ssd-probe view`: what is packed, what is refused, what the page is joined of."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from ssd_probe.commands.pictures.view import view_stage
from ssd_probe.commands.probe import probe_stage
from ssd_probe.errors import UserError
from ssd_probe.probing.config import ProbeConfig
from ssd_probe.probing.table import Probe
from ssd_probe.views.blocks import Names, pack, texts_of
from ssd_probe.views.page import MODULES, script
from tests.pages import text_of, unpacked
from tests.probes import probe_of, random_logits


@pytest.fixture(scope="module")
def probed(tmp_path_factory) -> Path:
    """Probes of the bundled model: `one`, `cut` (fewer texts)."""
    folder = tmp_path_factory.mktemp("probed")
    texts = ["for ada in range(3):\n    print(ada)\n", "x = 1\n"]
    (folder / "texts").mkdir()
    for i, text in enumerate(texts):
        (folder / "texts" / f"{i}.py").write_text(text)
    for name, limit in (("one", None), ("cut", 1)):
        probe_stage("tiny", [str(folder / "texts")], folder / name, ProbeConfig(top_k=32),
                    limit=limit)  # fmt: skip
    return folder


class TestBlocks:
    def test_the_tail_beyond_fewer_ranks_is_that_of_a_probe_with_fewer(self):
        logits = random_logits(40)
        block = unpacked(pack(text_of(["x"] * 40, logits), 5))
        fewer = probe_of(logits, ranks=5)
        assert np.allclose(block["tail"], fewer["tail_log_mass"], atol=1e-5)
        assert (block["top_ids"].reshape(-1, 5) == np.stack(fewer["top_ids"])).all()

    def test_a_mass_too_small_for_a_float_stays_a_mass(self):
        logits = np.full((1, 150), -1e4)
        logits[0, 3] = 1e4
        assert unpacked(pack(text_of(["x"], logits), 5))["tail"][0] == pytest.approx(-2e4, rel=1e-3)

    def test_whether_rank_k_ties_with_the_next(self):
        logits = np.zeros((2, 150)) - 30
        logits[0, :5], logits[1, :6] = 1, 1
        assert unpacked(pack(text_of(["x"] * 2, logits), 5))["ties"].tolist() == [0, 1]

    def test_partial_characters_are_bytes_and_unknown_ids_have_no_name(self):
        text = text_of(["x"] * 3, random_logits(3))
        names = Names(lambda ids: [b"\xe2\x82" if i == 1 else b"ok" for i in ids])
        names.add(text, 20)
        table = names.table()
        assert table["partial"] == {"1": "e2 82"} and table["names"]["0"] == "ok"
        without = Names()
        without.add(text, 20)
        assert set(without.table()["names"]) == {"0", "1", "2"}


class TestRefused:
    @pytest.mark.parametrize(("first", "second", "line"), [
        ("none", None, "no such probe folder"), ("texts", None, "no probe.json"),
        ("one", "cut", "other texts or positions"), ("cut", "one", "other texts or positions"),
    ])  # fmt: skip
    def test_in_one_line(self, probed, tmp_path, first, second, line):
        other = None if second is None else probed / second
        with pytest.raises(UserError, match=line):
            view_stage(probed / first, other, tmp_path / "v.html")
        assert not list(tmp_path.iterdir())

    def test_another_tokenizer(self, probed, tmp_path):
        shutil.copytree(probed / "one", tmp_path / "other")
        record = json.loads((tmp_path / "other/probe.json").read_text())
        (tmp_path / "other/probe.json").write_text(json.dumps(record | {"tokenizer": "0" * 64}))
        with pytest.raises(UserError, match="different tokenizers"):
            view_stage(probed / "one", tmp_path / "other", tmp_path / "v.html")

    def test_no_ranks_no_texts_and_a_folder_as_file(self, probed, tmp_path):
        for options, line in (({"ranks": 0}, "--ranks 0"), ({"limit": 0}, "--limit 0")):
            with pytest.raises(UserError, match=line):
                view_stage(probed / "one", None, tmp_path / "v.html", **options)
        with pytest.raises(UserError, match="a folder"):
            view_stage(probed / "one", None, tmp_path)


def test_of_a_pair_s_folder_both_sides_and_the_divergences(probed, tmp_path):
    probe_stage("tiny", [str(probed / "texts")], tmp_path / "pair", ProbeConfig(top_k=32),
                pair="tiny")  # fmt: skip
    blocks = [unpacked(pack(text, 20)) for text in texts_of(Probe.load(tmp_path / "pair"), None)]
    assert len(blocks) == 2
    for block in blocks:
        assert (block["top_ids"] == block["other_top_ids"]).all() and len(block["kl_base_other"])
    alone = list(texts_of(Probe.load(tmp_path / "pair", side="other"), None))
    assert alone[0].other is None and "kl_base_other" not in alone[0].frame
    (line, *_) = view_stage(tmp_path / "pair", None, None)
    assert (tmp_path / "pair/view.html").exists() and "view.html" in line


def test_of_a_limit_the_page_says_so(probed, tmp_path):
    lines = view_stage(probed / "one", None, tmp_path / "v.html", limit=1)
    assert "The first 1 of 2 texts." in lines
    assert len(list(texts_of(Probe.load(probed / "one"), None, 1))) == 1


def test_texts_of_some_parts_are_those_of_all(tmp_path):
    for i in range(70):  # 64 texts are a part
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / f"texts/{i:02}.py").write_text(f"x = {i}\n")
    probe_stage("tiny", [str(tmp_path / "texts")], tmp_path / "many", ProbeConfig(top_k=24))
    probe = Probe.load(tmp_path / "many")
    names = [text.sample_id for text in texts_of(probe, None)]
    assert len(names) == 70 and probe.record["parts"] == 2
    assert [text.sample_id for text in texts_of(probe, probe, parts=[1])] == names[64:]
    some = [names[3], names[66]]
    assert [text.sample_id for text in texts_of(probe, probe, only=some)] == some


def test_the_joined_modules_say_nothing_of_modules():
    code = script()
    assert not re.search(r"^(import|export)\b", code, re.MULTILINE)
    assert all(f"{name}.js" not in code for name in MODULES if name not in ("blocks",))
