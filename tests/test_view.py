"""`ssd-probe view`: what is packed, what is refused, and the page in a real browser."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ssd_probe.analysis.frames import stats_of
from ssd_probe.analysis.labels import SupportRule
from ssd_probe.commands.pictures.view import view_stage
from ssd_probe.commands.probe import probe_stage
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.probing.config import ProbeConfig
from ssd_probe.probing.table import Probe
from ssd_probe.views.blocks import Names, Text, pack, texts_of
from ssd_probe.views.page import MODULES, VIEWER, About, meta_of, script, style, write_page
from tests.browser import serious_faults
from tests.probes import probe_of, random_logits

HOSTILE = [
    "</script><img src=x onerror=alert(1)>", "<script>alert(1)</script>", "<!--", "-->", "]]>",
    "<!--<script>", "</style><style>*{display:none}", "<svg/onload=alert(1)>", "&lt;b&gt;", "&#60;",
    "<iframe src=https://example.org>", "<img src=//example.org/x.png>", "<base href=//x.org>",
    "<link rel=stylesheet href=//x.org>", "<meta http-equiv=refresh content=0;url=//x.org>",
    "javascript:alert(1)", "https://example.org/?q=1", "data:text/html,<script>alert(1)</script>",
    "' onmouseover='alert(1)", '" onfocus="alert(1)" autofocus="', "`${alert(1)}`", "{{7*7}}",
    "__proto__", "constructor", "hasOwnProperty", "\\u003cscript\\u003e", "\\", "\\n", "\u202eevil",
    "\u2066\u2069", "\u200b", "\ufeff", "a\u0301\u0301\u0301", "\x00", "\x1b[31m", "\r", "\t",
    "\u2028", "\u2029", "\ufffd", "\U000e0041", "\U0001f468\u200d\U0001f469", "نص", "中文字",
    "", " ", "\n\n", "x" * 1_000_000, "<" * 3000,
]  # fmt: skip


def text_of(tokens: list[str], logits: np.ndarray, name: str = "s", **other: np.ndarray) -> Text:
    """A text of these tokens, with the statistics of these logits."""

    def frame(z: np.ndarray) -> pd.DataFrame:
        ids = np.arange(len(tokens)) % z.shape[1]
        log_p = torch.tensor(z).log_softmax(-1)[np.arange(len(z)), ids]
        return probe_of(z, ranks=24).assign(
            sample_id=name, problem_id="p", position=np.arange(len(tokens)) + 1, token_id=ids,
            token=tokens, segment="code", syntax=np.resize(["Name", "Call"], len(tokens)),
            logprob=log_p.numpy().astype(np.float32), rank=1,
        )  # fmt: skip

    return Text(name, "p", frame(logits), frame(other["other"]) if other else None)


def about(models: tuple[str, ...] = ("base",), **more) -> About:
    known = {"title": "t", "models": list(models), "vocabulary": 150, "rule": SupportRule(),
             "special": [], "notes": []}  # fmt: skip
    return About(**(known | more))


def page_of(path: Path, texts: list[Text], **more) -> Path:
    names = Names(lambda ids: [f"<{i}>".encode() for i in ids])
    models = ("base", "tuned") if texts[0].other is not None else ("base",)
    write_page(path, texts, about(models, **more), names, 20)
    return path


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


def test_the_joined_modules_say_nothing_of_modules():
    code = script()
    assert not re.search(r"^(import|export)\b", code, re.MULTILINE)
    assert all(f"{name}.js" not in code for name in MODULES if name not in ("blocks",))


def unpacked(block: bytes) -> dict[str, np.ndarray]:
    """A block's arrays, as `block.js` reads them."""
    kinds = {"f4": "<f4", "i4": "<i4", "u2": "<u2", "u1": "<u1"}
    at = 4 + int.from_bytes(block[:4], "little")
    arrays = {}
    for name, kind, count in json.loads(block[4:at])["arrays"]:
        arrays[name] = np.frombuffer(block, kinds[kind], count, at)
        at += arrays[name].nbytes + -arrays[name].nbytes % 4
    assert at == len(block)
    return arrays


def cells(page, table: str) -> dict[str, list[str]]:
    """Rows of a table of the panel: header cell -> the others' text."""
    return page.evaluate(
        """(table) => Object.fromEntries([...document.querySelectorAll(table + " tbody tr")].map(
             (tr) => [tr.querySelector("th").textContent.replace("▶", ""),
                      [...tr.querySelectorAll("td")].map((td) => td.textContent)]))""", table,
    )  # fmt: skip


@pytest.fixture(scope="module")
def two_models(tmp_path_factory) -> tuple[Path, Text]:
    logits = random_logits(60)
    moved = logits + np.random.default_rng(3).normal(size=logits.shape)
    tokens = [f"t{i}\n" if i % 7 == 6 else f" t{i}" for i in range(60)]
    text = text_of(tokens, logits, other=moved)
    second = text_of(["a", "b", "c"], random_logits(3), name="second", other=random_logits(3))
    return page_of(tmp_path_factory.mktemp("page") / "v.html", [text, second]), text


def test_hover_shows_the_numbers_of_the_frames(two_models, visit):
    path, text = two_models
    page = visit(path)
    for i in (3, 40):
        page.hover(f"#token-{i}")
        rows = cells(page, ".numbers")
        for column, frame in enumerate((text.frame, text.other)):
            row = frame.iloc[i]
            assert float(rows["entropy, nats"][column]) == pytest.approx(row["entropy"], rel=1e-3)
            assert float(rows["surprisal, nats"][column]) == pytest.approx(
                -row["logprob"], rel=1e-3, abs=1e-3
            )
        leading = cells(page, ".leading")
        logits, ids = text.frame["top_logits"].iloc[i], text.frame["top_ids"].iloc[i]
        first = np.exp(logits[0] - text.frame["max_logit"].iloc[i]
                       - text.frame["log_partition"].iloc[i])  # fmt: skip
        assert float(leading[f"<{ids[0]}>"][1].split()[0]) == pytest.approx(first, rel=1e-3)
    page.mouse.move(1, 1)
    assert "position 1 ·" in page.inner_text(".where")


def test_the_panel_recomputes_supports_and_labels(two_models, visit):
    path, text = two_models
    page = visit(path)
    decoding = Decoding(0.8, 6, 0.9)
    for name, value in (("T", "0.8"), ("top-k", "6"), ("top-p", "0.9")):
        page.get_by_label(name, exact=True).fill(value)
    stats = stats_of(text.frame)
    labels = replace(SupportRule(), decoding=decoding).label(text.frame)
    for i in (0, 25, 59):
        page.click(f"#token-{i}")
        rows = cells(page, ".numbers")
        assert int(rows["support, tokens"][0]) == stats.support_size(decoding)[i]
        branching = stats.branching(decoding)[i].item()
        assert float(rows["branching, tokens"][0]) == pytest.approx(branching, rel=1e-3)
        assert page.inner_text(".kinds .tag >> nth=0") == labels[i]
    shown = page.evaluate(
        """() => [...document.querySelectorAll(".token.first")].map(
             (t) => [...t.classList].find((c) => c.startsWith("k-")).slice(2))"""
    )
    assert shown == labels.tolist() and len(set(shown)) > 1
    page.get_by_label("top-p", exact=True).fill("7")  # refused, the last settings stay
    assert page.get_by_label("top-p", exact=True).get_attribute("aria-invalid") == "true"
    assert "top-p 0.9" in page.inner_text(".numbers caption")


def test_bounds_are_said_where_the_ranks_do_not_decide(two_models, visit):
    page = visit(two_models[0])
    page.get_by_label("top-k", exact=True).fill("0")
    assert "beyond the 20 stored ranks" in page.inner_text(".notice[role=status]")
    page.click("#token-0")
    assert re.match(r"≥ \d+|\d+ to \d+", cells(page, ".numbers")["support, tokens"][0])


def test_by_keyboard_alone(two_models, visit):
    from playwright.sync_api import expect

    path, text = two_models
    page = visit(path)
    labels = SupportRule().label(text.frame).tolist()
    forks = [i for i, kind in enumerate(labels) if kind == "fork"]

    def at() -> int:
        return page.evaluate(
            "() => Number(document.activeElement.getAttribute('aria-activedescendant').slice(6))"
        )

    def press(*keys: str) -> int:
        for key in keys:
            page.keyboard.press(key)
        return at()

    assert at() == 0  # the text has the focus from the beginning
    assert press("ArrowRight", "ArrowRight", "ArrowLeft") == 1
    assert press("ArrowDown") == 8 and press("ArrowUp") == 1
    assert press("End") == 59 and press("Home") == 0
    assert press("f") == next(i for i in forks if i > 0)
    assert press("Home", "F") == forks[-1]
    assert page.evaluate("location.hash") == f"#text=s&position={forks[-1] + 1}"
    page.keyboard.press("/")
    page.keyboard.type("t42")
    page.keyboard.press("Escape")
    assert at() == 42 and page.inner_text(".found") == "1 found"
    page.keyboard.press("l")
    change = page.evaluate("document.querySelector('[aria-live]').textContent")
    assert change.startswith("number 1 by change after tuning")
    page.keyboard.press("]")
    expect(page.locator(".token.first")).to_have_count(3)  # the page forbids what waits by eval
    assert page.evaluate("location.hash") == "#text=s&position=" + page.evaluate(
        "location.hash.split('=').at(-1)"
    )
    for _ in range(40):  # every control can be reached, and left again
        page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    assert at() == 0


def test_shift_selects_several(two_models, visit):
    page = visit(two_models[0])

    def chosen() -> list[int]:
        page.wait_for_selector(".selected")
        return page.evaluate(
            """() => [...document.querySelectorAll(".first.selected, .first.chosen")].map(
                 (t) => Number(t.dataset.i))"""
        )

    page.click("#token-3")
    page.click("#token-6", modifiers=["Shift"])
    assert chosen() == [3, 4, 5, 6]
    page.keyboard.press("Shift+ArrowLeft")
    assert chosen() == [3, 4, 5]
    assert "3 selected" in page.evaluate("document.querySelector('[aria-live]').textContent")
    page.keyboard.press("Shift+Home")
    assert chosen() == [0, 1, 2, 3]
    assert page.evaluate("getSelection().toString()") == ""
    page.keyboard.press("ArrowRight")
    assert chosen() == [1]


def test_two_viewers_on_a_page_that_get_their_place_late(tmp_path, visit):
    """As in a notebook, where a view is filled before it is shown."""
    text = text_of(["a", "b\n", "c"], random_logits(3))
    meta = meta_of(about(), 20) | {"names": {}, "partial": {}}
    meta["texts"] = [{"name": "s", "rows": 3}]
    host = f"""const meta = {json.dumps(meta)};
const block = async () => Uint8Array.from({[*pack(text, 20)]});
for (const position of [1, 3]) {{
  const box = document.createElement("div");
  await mount(box, {{ meta, block, inNotebook: true, start: {{ text: "s", position }} }});
  document.body.append(box);
}}"""
    path = tmp_path / "two.html"
    page_code = (
        f'<style>{style()}</style><body><script type="module">{script(VIEWER)}{host}</script>'
    )
    path.write_text(f'<!DOCTYPE html><meta charset="utf-8">{page_code}')
    page = visit(path)
    page.wait_for_selector("#viewer-2-token-2.selected")
    assert page.locator("#token-0.selected").count() == 1
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((each) => each.id)")
    assert len(ids) == len(set(ids)) == 6
    assert page.locator(".ssd-viewer.dark").count() == 0
    assert page.locator(".tools[open]").count() == 2  # the window is wide
    page.evaluate("document.body.style.color = 'rgb(230, 230, 230)'")  # the notebook's theme
    page.wait_for_selector(".ssd-viewer.dark")
    assert page.locator(".ssd-viewer.dark").count() == 2


def test_dark_and_narrow_as_the_system_and_the_window_are(two_models, visit):
    page = visit(two_models[0], color_scheme="dark", viewport={"width": 390, "height": 844})
    look = """() => [getComputedStyle(document.querySelector(".ssd-viewer")).backgroundColor,
                     getComputedStyle(document.querySelector("main")).flexDirection]"""
    assert page.evaluate(look) == ["rgb(20, 23, 28)", "column"]
    page.set_viewport_size({"width": 1200, "height": 844})
    page.wait_for_selector(".ssd-viewer:not(.narrow)")
    page.emulate_media(color_scheme="light")
    page.wait_for_selector(".ssd-viewer:not(.dark)")
    assert page.evaluate(look) == ["rgb(255, 255, 255)", "row"]


def test_an_address_opens_at_its_position(two_models, visit):
    page = visit(two_models[0], "#text=second&position=2")
    assert page.inner_text("h2").strip() == "b" and "position 2 ·" in page.inner_text(".where")


def test_filters_and_colours(two_models, visit):
    path, text = two_models
    page = visit(path)
    page.get_by_label("syntax").select_option("Call")
    assert page.locator(".token.first:not(.out)").count() == 30
    options = page.get_by_label("Colour").locator("option").all_inner_texts()
    assert "entropy after - before" in options and "KL after tuning" not in options
    for name in options:
        page.get_by_label("Colour").select_option(label=name)
        counts = page.locator(".legend small").all_inner_texts()
        assert sum(int(count.strip("()")) for count in counts) == 60, name
        used = page.evaluate(
            """() => new Set([...document.querySelectorAll(".token.first:not(.out)")].map(
                 (t) => getComputedStyle(t).backgroundColor)).size"""
        )
        assert used > 1, name


def test_hostile_tokens_are_text(tmp_path, visit):
    tokens = HOSTILE
    assert len(tokens) >= 40
    text = text_of(tokens, random_logits(len(tokens)), name="</script><b>'\"&")
    names = Names(lambda ids: [HOSTILE[i % len(HOSTILE)].encode()[:5000] for i in ids])
    path = tmp_path / "v.html"
    write_page(path, [text], about(title="</title><script>alert(1)</script>"), names, 20)
    page = visit(path)
    assert page.locator(".token.first").count() == len(tokens)
    for _ in tokens:
        page.keyboard.press("ArrowRight")
    assert page.inner_text("h1") == "</title><script>alert(1)</script>"
    for tag in ("img", "svg", "iframe", "base", "b", "link"):
        assert page.locator(tag).count() == 0
    assert page.locator("script:not([type])").count() == 0 and page.locator("meta").count() == 4
    assert page.inner_text("#token-0").startswith("</script><img src=x onerror=alert(1)>")
    shown = page.inner_text(f"#token-{HOSTILE.index('x' * 1_000_000)}")
    assert len(shown) < 1000
    assert "‹U+202E›" in page.inner_text(f"#token-{HOSTILE.index(chr(0x202E) + 'evil')}")
    assert "‹U+200B›" in page.inner_text(f"#token-{HOSTILE.index(chr(0x200B))}")


@pytest.mark.slow(reason="a page of 20 MB")
def test_a_hundred_thousand_tokens_keep_few_elements(tmp_path, visit):
    rows, logits = 100_000, random_logits(1000)
    small = text_of(["x"] * 1000, logits)
    frame = pd.concat([small.frame] * 100, ignore_index=True).assign(
        position=np.arange(rows),
        token=[f" w{i}\n" if i % 9 == 8 else f" w{i}" for i in range(rows)],
    )
    page = visit(page_of(tmp_path / "v.html", [Text("s", "p", frame, None)]))
    assert page.locator(".token").count() < 2000
    page.keyboard.press("End")
    assert "position 99999 ·" in page.inner_text(".where") and page.is_visible("#token-99999")
    assert page.locator(".token").count() < 2000


@pytest.mark.slow(reason="axe-core looks at each element, five times")
def test_phone_dark_print_and_accessibility(two_models, visit):
    phone = {"viewport": {"width": 390, "height": 844}}
    for context, colours in (
        ({}, ["label", "entropy", "entropy_change"]), ({"color_scheme": "dark"}, ["entropy"]),
        (phone | {"color_scheme": "dark"}, ["label"]),
    ):  # fmt: skip
        page = visit(two_models[0], **context)
        for colour in colours:
            page.get_by_label("Colour").select_option(colour)
            assert serious_faults(page) == [], (context, colour)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".token.first").count() == 60
