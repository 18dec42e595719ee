"""`ssd-probe report`: what changed most, and the pages of a run, a comparison and a probe."""

import html
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from ssd_probe.analysis.examples.changed import change, most_changed, movements
from ssd_probe.analysis.labels import SupportRule
from ssd_probe.commands.compare import compare_stage
from ssd_probe.commands.probe import probe_stage
from ssd_probe.commands.reporting.stage import report_stage
from ssd_probe.commands.reporting.tokens import _events
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.probing.config import ProbeConfig
from ssd_probe.probing.table import Probe
from ssd_probe.views.report.content import Commands, Figure, Notes, Prose, Report, Section, Table
from ssd_probe.views.report.render import render
from ssd_probe.views.report.terms import COMPARED, VIEWED
from ssd_probe.views.signs import on_a_line
from ssd_probe.views.story import judged
from tests.browser import serious_faults
from tests.models import save
from tests.probes import probe_of, random_logits, softmax

HOSTILE = "</script><img src=x onerror=alert(1)>"


def rows(logits, **more):
    n = len(logits)
    about = {"token": [f"t{i}" for i in range(n)], "segment": "code", "syntax": "Name"}
    return probe_of(logits, **more).assign(**about)


class TestChange:
    def test_is_the_total_variation_where_the_ranks_are_all(self):
        base, tuned = random_logits(40, vocab=15), random_logits(40, vocab=15, seed=2)
        exact = [
            np.abs(softmax(z) - softmax(w)).sum() / 2 for z, w in zip(base, tuned, strict=True)
        ]
        found = change(rows(base, ranks=15), rows(tuned, ranks=15))
        assert found == pytest.approx(exact, abs=1e-6)

    def test_is_never_above_it_and_zero_for_the_same(self):
        base, tuned = random_logits(80), random_logits(80, seed=2)
        exact = [
            np.abs(softmax(z) - softmax(w)).sum() / 2 for z, w in zip(base, tuned, strict=True)
        ]
        found = change(rows(base), rows(tuned))
        assert (found <= np.array(exact) + 1e-6).all() and found.mean() > 0.8 * np.mean(exact)
        assert change(rows(base), rows(base)) == pytest.approx(0, abs=1e-7)

    def test_what_cannot_be_above_a_bound_is_left_out_and_nothing_else(self):
        base = random_logits(200)
        tuned = base + np.random.default_rng(5).normal(size=base.shape) * np.geomspace(
            1e-3, 3, 200
        ).reshape(-1, 1)
        whole = change(rows(base), rows(tuned))
        for above in (0.05, 0.2, 0.5):
            found = change(rows(base), rows(tuned), above)
            assert (found[whole > above] == whole[whole > above]).all()
            assert set(found[found != whole]) == {0.0} and (whole > above).any()

    def test_not_valid_is_no_change(self):
        base, tuned = rows(random_logits(10)), rows(random_logits(10, seed=2))
        base.loc[3, "valid"] = False
        assert change(base, tuned)[3] == 0 and (np.delete(change(base, tuned), 3) > 0).all()

    def test_the_largest_of_all_parts_one_a_problem(self):
        base, tuned = rows(random_logits(40)), rows(random_logits(40, seed=2))
        parts = [(base[:20], tuned[:20]), (base[20:], tuned[20:])]
        found = most_changed(parts, SupportRule(), 3)
        whole = pd.Series(change(base, tuned)).groupby(base["problem_id"]).max()
        assert found["change"].tolist() == whole.nlargest(3).tolist()
        assert found["problem_id"].tolist() == whole.nlargest(3).index.tolist()
        places = 5 * found["sample_id"] + found["position"]
        assert found["part"].tolist() == (places >= 20).astype(int).tolist()
        first = found.iloc[0]
        place = int(first["sample_id"] * 5 + first["position"])
        assert first["label"] == SupportRule().label(base).iloc[place]
        assert first["base_p"][0] == pytest.approx(
            softmax(random_logits(40)[place]).max(), rel=1e-5
        )
        assert first["context"] == "".join(base["token"][place - first["position"] : place])
        assert not len(most_changed([(base, base)], SupportRule(), 5))


def moved(*tokens: tuple[int, int], shift=3.0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Positions, one of a problem each, at which most mass goes from one token to another."""
    base = np.zeros((len(tokens), 20))
    tuned = base.copy()
    for i, (lost, won) in enumerate(tokens):
        base[i, lost] = tuned[i, won] = shift - 0.1 * i
    both = [rows(z, ranks=20).assign(problem_id=range(len(tokens))) for z in (base, tuned)]
    return both[0], both[1]


class TestEvents:
    def test_a_movement_is_from_one_token_to_another(self):
        pairs = [(3, 7), (3, 7), (5, 3)]
        found = movements(most_changed([moved(*pairs)], SupportRule(), 5))
        assert list(found.itertuples(index=False, name=None)) == pairs

    def test_equal_ones_are_told_as_one_and_said(self):
        found = most_changed([moved((3, 7), (3, 7), (5, 3), (3, 7))], SupportRule(), 5)
        first, second = (changed := _events(found, None, set()))[0]
        assert [len(each.like) for each in (first, second)] == [2, 0]
        assert first.like[0][1] == int(found["position"][1]) and first.like[0][2] is None
        assert changed[1:] == ("3 of the 4 largest changes are one: ‘3’ gives way to ‘7’.",
                               False)  # fmt: skip

    def test_what_no_most_share_is_not_said(self):
        found = most_changed([moved((3, 7), (5, 3), (3, 7), (8, 9))], SupportRule(), 5)
        assert _events(found, None, set())[1:] == ("", False)
        assert _events(found.head(1), None, set())[1:] == ("", False)
        assert _events(found.head(0), None, set()) == ([], "", False)


def test_texts_are_escaped_and_signs_visible():
    table = Table(HOSTILE, pd.DataFrame({HOSTILE: [HOSTILE, None]}))
    blocks = [Prose(HOSTILE), Notes([HOSTILE]), Commands([HOSTILE]), table]
    page = render(Report(HOSTILE, HOSTILE, [HOSTILE], [Section("s", HOSTILE, blocks)]), HOSTILE)
    assert "<img" not in page and "</script" not in page and page.count("onerror") >= 10
    assert on_a_line(" a\n\u202e ") == "␣a⏎‹U+202E›␣" and on_a_line("  ") == "␣␣"
    assert len(on_a_line("x" * 1000)) < 30 and on_a_line("") == ""


@pytest.mark.parametrize(("low", "high", "said"), [
    (0.01, 0.1, "it helped"), (-0.1, -0.01, "it hurt"), (-0.1, 0.1, "not told from no difference"),
    (0.0, 0.1, "not told from no difference"), (None, None, "no interval, so nothing can be said"),
])  # fmt: skip
def test_a_difference_in_words(low, high, said):
    assert judged({"low": low, "high": high}) == said


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Probes of two small models on a file with a hostile string, and their comparison."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "t.py").write_text(f'def f(x):\n    y = "{HOSTILE}"\n    return x + y\n' * 3)
    other = save(folder / "other", "llama")
    for name, model in (("base", "tiny"), ("again", "tiny"), ("other", str(other))):
        probe_stage(model, [str(folder / "t.py")], folder / name, ProbeConfig(top_k=24))
    compare_stage(folder / "base", folder / "again", None, Decoding(1.6, 20, 0.8),
                  out=folder / "comparison")  # fmt: skip
    return folder


def test_of_a_probe(compared, visit):
    report_stage(compared / "base")
    page = visit(compared / "base" / "report.html")
    assert page.locator("h2").first.inner_text() == "What was probed?"
    text = page.inner_text(".report")
    assert "by ssd-probe" in text and "lock" in text and "ssd-probe probe --model tiny" in text
    assert page.locator("#viewer .token").count() > 10


def test_how_to_repeat_a_probe_is_what_was_typed(tmp_path):
    """The printed command makes the same folder; of half forks or more it says what that means."""
    out, again = tmp_path / "p", tmp_path / "again"
    config = ProbeConfig(top_k=24, include_prompt=True)
    probe_stage("tiny", ["stdlib:test"], out, config, limit=2, style="chat")
    report_stage(out, tmp_path / "r.html")
    page = html.unescape((tmp_path / "r.html").read_text())
    (typed,) = re.findall(rf"ssd-probe (probe --model tiny [^<\n]*--out {out})", page)
    assert "--text stdlib:test --limit 2 --style chat" in typed and "--top-k 24" in typed
    words = typed.replace(str(out), str(again)).split()
    subprocess.run([sys.executable, "-m", "ssd_probe.cli", *words], check=True)
    one, two = (Probe.load(folder) for folder in (out, again))
    assert one.settings == two.settings and one.frame.equals(two.frame)
    shares = SupportRule().label(one.frame).value_counts(normalize=True)
    assert ("of the positions are forks by this rule" in page) == (shares.get("fork", 0) >= 0.5)


def test_what_is_left_out_is_said(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text(f"{name} = [1, 2, 3]\n")
    sources = [str(tmp_path / "a.py"), str(tmp_path / "b.py")]
    probe_stage("tiny", sources, tmp_path / "two", ProbeConfig(top_k=24))
    line = report_stage(tmp_path / "two", tmp_path / "r.html", positions=10)[-1]
    rows = len(Probe.load(tmp_path / "two"))
    assert f"with every token of 1 text, {rows // 2} of the probe's {rows} positions" in line
    assert line.endswith(", its first; `ssd-probe view` shows all")
    page = html.unescape((tmp_path / "r.html").read_text())
    assert line.removeprefix("with every token of ") in page


def test_of_a_probe_without_forks(compared, tmp_path, monkeypatch):
    monkeypatch.setattr("ssd_probe.commands.reporting.probe.SupportRule",
                        lambda: SupportRule(fork_at_least=1e6))  # fmt: skip
    lines = report_stage(compared / "base", tmp_path / "r.html")
    assert "There is no fork among them by the default rule." in lines


def test_words_are_linked_to_what_they_mean(compared, tmp_path, visit):
    report_stage(compared / "comparison", tmp_path / "c.html")
    page = visit(tmp_path / "c.html")
    told = page.locator("#words dt").all_inner_texts()
    assert told == list(COMPARED) and "leverage" in told
    links = page.locator("#inside td a[href^='#word-']").all()
    assert len(links) > 5
    for link in links:  # each leads to a word on the page
        assert page.locator(f"[id='{link.get_attribute('href')[1:]}']").count() == 1
    assert page.locator("#viewer .words dt").count() == len(VIEWED)


def test_of_a_comparison_also_without_its_probes(compared, tmp_path, visit):
    report_stage(compared / "comparison", tmp_path / "whole.html")
    page = visit(tmp_path / "whole.html")
    content = json.loads((compared / "comparison" / "comparison.json").read_text())
    text = page.inner_text(".report")
    for line in content["lines"]:
        assert line in text
    assert page.locator("figure img").count() >= 5
    loaded = "[...document.images].every((i) => i.complete && i.naturalWidth > 0)"
    assert page.evaluate(loaded)
    shutil.copytree(compared / "comparison", tmp_path / "moved")
    content["base"]["probe"] = str(tmp_path / "nowhere")
    (tmp_path / "moved" / "comparison.json").write_text(json.dumps(content))
    report_stage(tmp_path / "moved")
    page = visit(tmp_path / "moved" / "report.html", wait="h1")
    assert "nowhere: no such probe folder" in page.inner_text("#doubts")
    assert "prose" not in page.inner_text("#doubts")
    assert page.locator("#viewer").count() == 0


def test_what_is_no_source_is_one_line(compared, tmp_path):
    for source, message in (
        (tmp_path, "no run, comparison or probe; give a folder"),
        (tmp_path / "absent", "no run, comparison or probe; give a folder"),
    ):
        with pytest.raises(UserError, match=message):
            report_stage(source)
    with pytest.raises(UserError, match="a folder; give the name of an HTML file"):
        report_stage(compared / "base", tmp_path)
    with pytest.raises(UserError, match="no .html file, and may be one that holds something else"):
        report_stage(compared / "base", compared / "base" / "probe.json")
    assert json.loads((compared / "base" / "probe.json").read_text())
    (tmp_path / "run.json").write_text('{"settings": {"n": 1}}')
    with pytest.raises(UserError, match="not a run of `ssd-probe run` or `demo`"):
        report_stage(tmp_path)
    assert not (tmp_path / "report.html").exists()


def spoiled(path, key, value):
    """A record whose key says something else, or (None) is not there."""
    content = json.loads(path.read_text())
    content |= {key: value}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def test_a_comparison_of_much_prose_says_so(compared, tmp_path):
    folder = shutil.copytree(compared / "comparison", tmp_path / "c")
    content = json.loads((folder / "comparison.json").read_text())
    row = next(each for each in content["fork_rates"] if each["group"] == "code")
    content["fork_rates"].append({**row, "group": "text", "positions": row["positions"] // 2})
    (folder / "comparison.json").write_text(json.dumps(content))
    report_stage(folder)
    assert "of the probed positions are prose" in (folder / "report.html").read_text()


@pytest.mark.parametrize(("key", "value"), [
    ("base", None), ("base", 5), ("table", None), ("table", [1]), ("lines", None), ("lines", 5),
    ("decoding", None), ("rule", None), ("fork_rates", None), ("fork_rates", 5),
])  # fmt: skip
def test_a_spoiled_comparison_is_one_line(compared, tmp_path, key, value):
    folder = shutil.copytree(compared / "comparison", tmp_path / "c")
    spoiled(folder / "comparison.json", key, value)
    with pytest.raises(UserError, match="comparison.json: damaged, or of another version") as error:
        report_stage(folder)
    assert "\n" not in str(error.value) and not (folder / "report.html").exists()


@pytest.mark.parametrize(("end", "content", "message"), [
    ("txt", None, "fig_5.txt: no such file"), ("svg", b"\xff", "fig_5.svg: not UTF-8"),
    ("svg", b"<svg><g>", "fig_5.svg: damaged"), ("txt", b"", "fig_5.txt: empty"),
    ("csv", b"\xff", "fig_5.csv: damaged"), ("csv", b"", "fig_5.csv: damaged"),
])  # fmt: skip
def test_a_damaged_figure_is_named(tmp_path, end, content, message):
    for name, text in (("svg", "<svg></svg>"), ("txt", "Caption."), ("csv", "a\n1\n")):
        (tmp_path / f"fig_5.{name}").write_text(text)
    assert Figure.load(tmp_path / "fig_5").caption == "Caption."
    if content is None:
        (tmp_path / f"fig_5.{end}").unlink()
    else:
        (tmp_path / f"fig_5.{end}").write_bytes(content)
    with pytest.raises(UserError, match=message):
        Figure.load(tmp_path / "fig_5")


@pytest.mark.xdist_group("odd")
@pytest.mark.slow(reason="of a run that others share")
def test_a_spoiled_run_is_one_line(odd_run, tmp_path):
    folder = shutil.copytree(odd_run[0], tmp_path / "run", symlinks=True)
    report_stage(folder)
    page = (folder / "report.html").read_text()
    assert "each model at its declared T_eval (base top-k 5, top-p 1, others top-k 20" in page
    assert "base 0.500" in page and "at T_eval 0.7, 1 " in page
    (folder / "report.html").unlink()
    for key, value in (
        *(("main", None), ("main", "x"), ("main", 5), ("doubts", None), ("pass_at_k", [])),
        *(("pass_at_k", None), ("differences", [5]), ("comparison", None), ("comparison", 5)),
        *(("best_temperature", {}), ("best_temperature", "x"), ("prediction", 5)),
    ):
        shutil.copy(odd_run[0] / "summary.json", folder)
        spoiled(folder / "summary.json", key, value)
        with pytest.raises(UserError, match=r"(summary|run)\.json: damaged, or of another version"):
            report_stage(folder, positions=0)
        assert not (folder / "report.html").exists()


@pytest.mark.xdist_group("demo")
@pytest.mark.slow(reason="of a demo that others share, in a browser, with axe-core")
def test_of_a_run(demo_run, tmp_path, visit):
    """What a reader asks is answered with the run's own numbers."""
    out, summary, _, _ = demo_run
    target = tmp_path / "r.html"
    lines = report_stage(out, target)
    page = visit(target, viewport={"width": 1100, "height": 900})
    headings = [each.inner_text() for each in page.locator(".report h2").all()]
    assert headings == [
        "What was run?", "Did it work?", "What changed inside?", "Could we have known?",
        "What to distrust?", "How to repeat it", "What the words mean",
    ]  # fmt: skip
    text = page.inner_text(".report")
    differences = {(r["model"], r["group"], r["k"]): r for r in summary["differences"]}
    found = differences["ssd", "all", 1]
    assert f"difference {found['estimate']:+.2f}" in lines[0] and lines[0] in text
    assert judged(found) in lines[0] and f"T_eval {summary['best_temperature']['base']:g}" in text
    assert "Of control nothing is said here: not probed" in page.inner_text("#inside")
    beside = r"beside the base at the same T_eval, on the \d+ dev problems"
    assert re.search(beside, page.inner_text("#worked"))
    for doubt in summary["doubts"]:
        assert doubt in page.inner_text("#doubts")
    assert page.locator("figure img").count() >= 8
    assert page.locator(".changed").count() >= 3
    link = page.locator(".changed a").nth(1)
    link.click()
    asked = link.get_attribute("href").rpartition("=")[2]
    page.wait_for_selector(f"#viewer .where:has-text('position {asked} ·')")
    assert serious_faults(page) == []
    phone = visit(target, viewport={"width": 390, "height": 844}, color_scheme="dark")
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert serious_faults(phone) == []


@pytest.mark.xdist_group("demo")
@pytest.mark.slow(reason="of a demo that others share")
def test_of_an_unfinished_run(demo_run, tmp_path):
    folder = shutil.copytree(demo_run[0], tmp_path / "run")
    (folder / "summary.json").unlink()
    lines = report_stage(folder)
    assert lines[0].startswith("This run is not finished; the same command goes on with it.")
    page = html.unescape((folder / "report.html").read_text())
    assert "students: control, ssd" in page and "Figure 5" in page and "prediction: " in page


@pytest.mark.xdist_group("demo")
@pytest.mark.slow(reason="of a demo that others share")
def test_of_a_run_that_lost_something(demo_run, tmp_path):
    """Said in the answers, the page and, where it is one file, by its name."""
    folder = shutil.copytree(demo_run[0], tmp_path / "run")
    part = next((folder / "probes").glob("ssd*/part-00000.parquet"))
    part.write_bytes(part.read_bytes()[:1000])
    (folder / "figures" / "fig_6a.svg").unlink()
    lines = report_stage(folder)
    assert any(line.startswith("No tokens and no changed positions") for line in lines)
    page = html.unescape((folder / "report.html").read_text())
    assert "part-00000.parquet: missing or damaged" in page and 'id="viewer"' not in page
    assert "Figures that are not in figures: fig_6a" in page
