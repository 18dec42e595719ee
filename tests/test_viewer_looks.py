"""How the token viewer's page looks in a real browser, and that it stays text, and small."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ssd_probe.figures.style import FORK_COLOR, LOCK_COLOR, OPEN_COLOR
from ssd_probe.views.blocks import Names, Text
from ssd_probe.views.page import write_page
from tests.browser import serious_faults
from tests.pages import HOSTILE, about, page_of, page_of_two_models, text_of
from tests.probes import random_logits


@pytest.fixture(scope="module")
def two_models(tmp_path_factory) -> tuple[Path, Text]:
    return page_of_two_models(tmp_path_factory.mktemp("page"))


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


def test_printed_the_settings_are_words_and_not_controls(two_models, visit):
    page = visit(two_models[0])
    page.get_by_label("T", exact=True).fill("0.8")
    page.get_by_label("segment").select_option("code")
    assert page.is_visible("input") and not page.is_visible(".printed")
    page.emulate_media(media="print")
    assert not any(each.is_visible() for each in page.locator("input, select, button").all())
    assert page.inner_text(".printed") == (
        "s, coloured by label of the model before at T=0.8, top-k 20, top-p 0.8, only code"
    )


def test_while_scrolling_rows_in_sight_stay_and_none_is_missing(tmp_path, visit):
    tokens = [f"w{i}\n" for i in range(600)]
    page = visit(page_of(tmp_path / "v.html", [text_of(tokens, random_logits(600))]))
    scrolled = """async (to) => {
      const box = document.querySelector(".lines");
      const frame = () => new Promise(requestAnimationFrame);
      const before = new Set(document.querySelectorAll(".row"));
      box.scrollTop = to;
      for (let i = 0; i < 3; i++) await frame();
      const rows = [...document.querySelectorAll(".row")], high = rows[0].offsetHeight;
      return {numbers: rows.map((row) => Number(row.querySelector(".number").textContent)),
              tops: rows.map((row) => row.offsetTop / high),
              first: box.scrollTop / high, seen: box.clientHeight / high,
              kept: rows.filter((row) => before.has(row)).length};
    }"""
    for to, some_stay in ((300, True), (700, True), (6000, False), (5800, True), (1e6, False),
                          (0, False)):  # fmt: skip
        found = page.evaluate(scrolled, to)
        first, last = found["numbers"][0], found["numbers"][-1]
        assert found["numbers"] == list(range(first, last + 1))
        assert found["tops"] == [number - 1 for number in found["numbers"]]
        assert first <= found["first"] + 1 and last >= min(600, found["first"] + found["seen"])
        assert (found["kept"] > 0) == some_stay and len(found["numbers"]) < 120


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
    names = Names(lambda ids: [HOSTILE[i % len(HOSTILE)].encode(errors="surrogatepass")[:5000]
                              for i in ids])  # fmt: skip
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
    assert "‹U+D800›" in page.inner_text(f"#token-{HOSTILE.index(chr(0xD800))}")
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


def test_labels_have_the_figures_colours(two_models, visit):
    look = """(name) => getComputedStyle(document.querySelector(".ssd-viewer"))
                        .getPropertyValue(`--k-${name}`)"""
    page = visit(two_models[0])
    for name, color in {"lock": LOCK_COLOR, "fork": FORK_COLOR, "open": OPEN_COLOR}.items():
        assert page.evaluate(look, name).upper() == color
