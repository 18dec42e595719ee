"""The token viewer in a real browser: its numbers, its keys, what is selected in it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssd_probe.analysis.frames import stats_of
from ssd_probe.analysis.labels import SupportRule
from ssd_probe.decoding import Decoding
from ssd_probe.views.blocks import Text, pack
from ssd_probe.views.page import VIEWER, meta_of, script, style
from ssd_probe.views.report.terms import RUN, VIEWED
from tests.pages import about, page_of, page_of_two_models, text_of
from tests.probes import random_logits


@pytest.fixture(scope="module")
def two_models(tmp_path_factory) -> tuple[Path, Text]:
    return page_of_two_models(tmp_path_factory.mktemp("page"))


def cells(page, table: str) -> dict[str, list[str]]:
    """Rows of a table of the panel: header cell -> the others' text."""
    return page.evaluate(
        """(table) => Object.fromEntries([...document.querySelectorAll(table + " tbody tr")].map(
             (tr) => [tr.querySelector("th").textContent.replace("▶", ""),
                      [...tr.querySelectorAll("td")].map((td) => td.textContent)]))""", table,
    )  # fmt: skip


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


def test_a_page_may_open_at_another_decoding_than_that_of_its_labels(tmp_path, visit):
    """As in a report, whose tables are at the training decoding and their labels are not."""
    text, at = text_of([f" t{i}" for i in range(60)], random_logits(60)), Decoding(0.8, 6, 0.9)
    page = visit(page_of(tmp_path / "v.html", [text], decoding=at))
    by_rule = SupportRule().label(text.frame)
    by_setting = replace(SupportRule(), decoding=at).label(text.frame)
    assert (by_rule != by_setting).any()
    kinds = """() => [...document.querySelectorAll(".token.first")].map(
                 (t) => [...t.classList].find((c) => c.startsWith("k-")).slice(2))"""
    stats = stats_of(text.frame)
    for i in (0, 25, 59):
        page.click(f"#token-{i}")
        assert int(cells(page, ".numbers")["support, tokens"][0]) == stats.support_size(at)[i]
        assert page.inner_text(".kinds .tag") == by_rule[i]
    assert page.evaluate(kinds) == by_rule.tolist()
    assert "by the support rule at T=1.6, top-k 20, top-p 0.8" in page.inner_text(".legend")
    page.get_by_label("labels too").check()
    assert page.evaluate(kinds) == by_setting.tolist()
    assert "by the support rule at T=0.8, top-k 6, top-p 0.9" in page.inner_text(".legend")


def test_the_words_are_said_once_for_report_and_viewer(two_models, visit):
    page = visit(two_models[0])
    assert page.get_by_label("labels too").count() == 0  # they follow the settings
    page.get_by_text("Words", exact=True).click()
    said = page.locator(".words dt").all_inner_texts(), page.locator(".words dd").all_inner_texts()
    assert dict(zip(*said, strict=True)) == VIEWED and set(VIEWED) < set(RUN)


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
    assert page.inner_text(".found") == "1 found"
    page.keyboard.press("Escape")
    assert at() == 42
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
    assert len(ids) == len(set(ids)) == 8  # of tokens, and of what is said of settings
    assert page.locator(".ssd-viewer.dark").count() == 0
    assert page.locator(".tools[open]").count() == 2  # the window is wide
    page.evaluate("document.body.style.color = 'rgb(230, 230, 230)'")  # the notebook's theme
    page.wait_for_selector(".ssd-viewer.dark")
    assert page.locator(".ssd-viewer.dark").count() == 2


def test_an_address_opens_at_its_position(two_models, visit):
    page = visit(two_models[0], "#text=second&position=2")
    assert page.inner_text("h2").strip() == "b" and "position 2 ·" in page.inner_text(".where")


def test_of_two_links_the_last_wins_whichever_block_comes_first(tmp_path, visit):
    texts = [text_of(["a", "b"], random_logits(2), name=name) for name in ("one", "two", "three")]
    page = visit(page_of(tmp_path / "v.html", texts))
    page.evaluate(
        """() => {
             const read = Response.prototype.arrayBuffer;
             let waits = 300;  // the first block comes last
             Response.prototype.arrayBuffer = async function () {
               const [bytes, wait] = [await read.call(this), waits];
               waits = 0;
               await new Promise((done) => setTimeout(done, wait));
               return bytes;
             };
           }"""
    )
    page.evaluate("location.hash = '#text=two&position=2'")
    page.wait_for_timeout(50)  # the address is heard of once it has changed
    page.evaluate("location.hash = '#text=three&position=1'")
    page.wait_for_timeout(600)  # both have come
    assert page.locator(".ssd-viewer select").first.input_value() == "2"
    assert page.evaluate("location.hash") == "#text=three&position=1"
    assert "position 1 ·" in page.inner_text(".where")


def test_a_filter_that_nothing_passes_says_so(two_models, visit):
    page = visit(two_models[0])
    notice = ".notice[role=status]"
    only = page.locator("label:has(> span:text-is('label')) select")
    only.select_option("fork")
    assert page.inner_text(notice) == ""
    page.get_by_label("top-k", exact=True).fill("1")
    assert page.inner_text(notice) == "No position of this text is fork."
    only.select_option("")
    assert page.inner_text(notice) == ""


def test_a_colour_beyond_the_ranks_is_not_called_as_the_reports_tail_mass(two_models, visit):
    page = visit(two_models[0])
    page.get_by_label("Colour").select_option(label="mass beyond the ranks")
    assert "which are stored" in page.inner_text(".legend .hint")
    assert "tail mass" not in page.content()


def test_an_address_of_nothing_says_so(two_models, visit):
    """Whether the page opens there or a link is followed, until a place is found again."""
    from playwright.sync_api import expect

    path, _ = two_models
    page = visit(path, "#text=%3Cb%3Enope&position=3")
    notice = page.locator(".notice[role=status]")
    expect(notice).to_have_text("no text <b>nope in this file")
    assert "position 1 ·" in page.inner_text(".where")

    def follow(address: str) -> None:
        page.evaluate("(address) => void (location.hash = address)", address)

    for address, said in (
        ("#text=second&position=2", ""), ("#text=other", "no text other in this file"),
        ("#text=s&position=abc", "no position abc in this text"), ("#text=s&position=3", ""),
        ("#text=second&position=99", "no position 99 in this text"),
        ("#text=s&position=", 'no position "" in this text'),
    ):  # fmt: skip
        follow(address)
        expect(notice).to_have_text(said)
    page.get_by_title("Text after (])").click()
    expect(notice).to_have_text("")
    follow("#text=nope")
    expect(notice).to_have_text("no text nope in this file")
    page.get_by_label("top-k", exact=True).fill("0")
    expect(notice).to_contain_text("no text nope in this file. T=1.6, top-p 0.8 may keep tokens")
    page.click("#token-1")
    expect(notice).not_to_contain_text("nope")
    assert "no position abc in this text" in visit(path, "#text=s&position=abc").inner_text("body")


def test_what_a_setting_may_be_is_said_where_it_is_not(two_models, visit):
    from playwright.sync_api import expect

    page = visit(two_models[0])
    refusal = page.locator("fieldset [role=alert]")
    caption = page.inner_text(".numbers caption")
    for name, values in {"T": ("", "-1"), "top-k": ("1.5", "-1", ""), "top-p": ("0", "1.1", ""),
                         "min-p": ("2", "-0.1", "")}.items():  # fmt: skip
        field = page.get_by_label(name, exact=True)
        for value in values:
            field.fill(value)
            assert refusal.inner_text().split("; ")[-1].startswith(f"{name} must be")
            assert field.get_attribute("aria-invalid") == "true"
            assert page.inner_text(".numbers caption") == caption
    assert refusal.inner_text() == (
        "T must be a number, 0 or above; top-k must be a whole number, 0 (off) or above; "
        "top-p must be above 0, up to 1 (off); min-p must be from 0 (off) to 1"
    )
    page.get_by_label("min-p", exact=True).fill("0")
    expect(page.get_by_label("T", exact=True)).to_have_accessible_description(
        re.compile("^T must be")
    )
    assert refusal.inner_text().count("must be") == 3
    page.get_by_role("button", name="Reset").click()
    assert refusal.inner_text() == "" and page.locator("[aria-invalid=true]").count() == 0


def test_a_temperature_may_be_as_large_as_in_python(two_models, visit):
    path, text = two_models
    page = visit(path)
    for temperature in (1000.0, 1e9, 1e300):
        page.get_by_label("T", exact=True).fill(str(temperature))
        assert page.locator("[aria-invalid=true]").count() == 0
        decoding = Decoding(temperature, 20, 0.8)
        assert cells(page, ".numbers")["support, tokens"][0] == str(
            stats_of(text.frame).support_size(decoding)[0].item()
        )


def test_escape_ends_a_search(two_models, visit):
    page = visit(two_models[0])
    page.keyboard.press("/")
    page.keyboard.type("t4")
    assert page.inner_text(".found") == "11 found" and page.locator(".first.hit").count() == 11
    page.keyboard.press("Escape")
    assert page.inner_text(".found") == "" and page.locator(".hit").count() == 0
    assert page.get_by_label("Find").input_value() == ""
    page.keyboard.press("n")
    assert page.locator("#token-4.selected").count() == 1  # where the search had led
    assert page.evaluate("document.querySelector('[aria-live]').textContent") == "none here"
