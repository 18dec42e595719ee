"""The sweep figures draw what their frames say, and say what they cannot draw."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from ssd_probe.analysis.examples.steps import decoding_steps
from ssd_probe.analysis.frames import Missing
from ssd_probe.analysis.sweeps.plot_data import sweep_pictures
from ssd_probe.analysis.sweeps.printed import table_2, to_markdown
from ssd_probe.analysis.sweeps.published import published_pictures
from ssd_probe.analysis.sweeps.summaries import Margin, fit_settings
from ssd_probe.analysis.sweeps.table import check_sweep
from ssd_probe.commands.pictures.figures import figures_stage
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.figures.comparison_set import draw_tested
from ssd_probe.figures.pass_at_k import (
    fig_1,
    fig_1_panels,
    fig_2,
    fig_2_bars,
    fig_2_panels,
    fig_rivals,
)
from ssd_probe.figures.steps import fig_8
from ssd_probe.figures.style import COLUMN_WIDTH, MODELS, PAGE_WIDTH, paper_style
from ssd_probe.figures.sweep_set import draw_published, draw_sweep
from ssd_probe.figures.temperatures import fig_3a, fig_3b, fig_3b_panels, fig_7, fig_7_panels

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

NAN = float("nan")
PAIRS = pd.DataFrame(
    [("base", "overall", 0.4, 0.3, 0.5), ("base", "hard", 0.2, NAN, NAN),
     ("ssd", "overall", 0.55, 0.45, 0.6), ("ssd", "hard", 0.15, NAN, NAN)],
    columns=["model", "name", "estimate", "low", "high"],
)  # fmt: skip
CURVE = pd.DataFrame(
    [("base", 0.5, 1, 0.3, 0.2, 0.4), ("base", 0.9, 1, 0.35, 0.3, 0.4),
     ("ssd", 0.7, 1, 0.5, 0.45, 0.55)],
    columns=["model", "temperature", "k", "estimate", "low", "high"],
)  # fmt: skip
T_EFF = np.linspace(0.5, 2.5, 8)
POINTS = pd.concat(
    [pd.DataFrame({"setting": "no truncation", "T_eff": T_EFF, "k": 1,
                   "estimate": 0.4 - 0.1 * (T_EFF - 1.2) ** 2}),
     pd.DataFrame({"setting": "top-k 5", "T_eff": [1.0, 1.5], "k": 1, "estimate": [0.3, 0.4]})]
)  # fmt: skip
GRID = pd.DataFrame([[0.3, NAN, 0.5], [0.1, 0.2, 0.45]], index=[1.0, 1.6], columns=[0.5, 0.7, 0.9])


@pytest.fixture(autouse=True)
def _in_style_and_closed():
    with paper_style():
        yield
    plt.close("all")


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def sweep(students=((0, 1.0), (0, 1.6), (0, 2.0), (5, 1.6)), base=True, ks=(1, 5)) -> pd.DataFrame:
    """A synthetic sweep: a parabola in T_eff, no evaluator behind it."""
    rows = []
    for top_k, t_train in ([(None, None)] if base else []) + list(students):
        for t_eval in (0.5, 0.8, 1.0):
            for group, easier in (("all", 0.0), ("easy", 0.2), ("medium", 0.05), ("hard", -0.2)):
                for k in ks:
                    t_eff = (t_train or 1) * t_eval
                    score = 0.4 + easier + 0.02 * k + 0.1 * bool(t_train) - 0.05 * (t_eff - 1) ** 2
                    rows.append({
                        "model": f"ssd-{top_k}-{t_train}" if t_train else "base",
                        "T_train": t_train, "top_k_train": top_k, "top_p_train": 1.0,
                        "T_eval": t_eval, "top_k_eval": 20, "top_p_eval": 0.8, "group": group,
                        "k": k, "estimate": score, "low": score - 0.03, "high": score + 0.03,
                        "problems": 131,
                    })  # fmt: skip
    return check_sweep(pd.DataFrame(rows))


def test_fig_1_bars_whiskers_and_gains():
    ax = fig_1(PAIRS)
    assert ax.figure.get_size_inches()[0] == COLUMN_WIDTH
    base, ssd = ([bar for bar in group] for group in ax.containers if len(group) == 2)
    assert [bar.get_height() for bar in base] == [0.4, 0.2]
    assert [bar.get_height() for bar in ssd] == [0.55, 0.15]
    assert (base[0].get_hatch(), ssd[0].get_hatch() or "") == ("////", "")
    assert base[0].get_x() + base[0].get_width() == pytest.approx(ssd[0].get_x())
    assert texts(ax) == ["+15.0", "\u22125.0"]
    assert ax.texts[0].xy == (0, 0.6)  # above the whisker
    whiskers = [c.get_segments() for c in ax.collections]
    assert np.allclose([s[0][:, 1] for s in whiskers], [[0.3, 0.5], [0.45, 0.6]])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["overall", "hard"]


def test_fig_1_panels_keep_a_name_that_a_group_lacks_and_set_the_users_apart():
    frame = pd.concat([PAIRS.assign(group="all"), PAIRS[:1].assign(group="hard")])
    fig = fig_1_panels(frame, {"all": "overall", "hard": "only hard"}, own=1)
    assert fig.get_size_inches()[0] == PAGE_WIDTH
    upper, lower = fig.axes
    assert [label.get_text() for label in lower.get_xticklabels()] == ["overall", "hard"]
    for ax in (upper, lower):
        assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"] == [0.5]
    assert (upper.get_ylabel(), lower.get_ylabel()) == ("overall", "only hard")
    assert upper.get_legend() is not None and lower.get_legend() is None


def test_rivals_have_bars_names_and_looks_of_their_own(tmp_path):
    names = ["base", "ssd", "control", "two-stage", "min-p-0.1", "top-h-0.4"]
    rows = pd.DataFrame([
        {"model": "T1.6" if name == "ssd" else name, "group": group, "k": 1, "problems": 9,
         "temperature": 1.5, "estimate": height, "low": height - 0.05, "high": height + 0.05}
        for i, name in enumerate(names) for group, height in (("all", 0.3 + i / 50), ("hard", 0.2))
    ])  # fmt: skip
    ax = fig_rivals(
        rows.assign(name=rows["group"], model=rows["model"].replace("T1.6", "ssd"))
    ).axes[0]
    bars = {group.get_label(): group for group in ax.containers if hasattr(group, "patches")}
    shown = {"SSD": "ssd"}
    assert [shown.get(name, name) for name in bars] == names
    for i, group in enumerate(bars.values()):
        assert [bar.get_height() for bar in group] == [0.3 + i / 50, 0.2]
    ssd = bars["SSD"][0]
    assert [text.get_text() for text in ax.texts] == ["+2.0", "+0.0"]
    assert ax.texts[0].xy == pytest.approx((ssd.get_x() + ssd.get_width() / 2, 0.37))
    looks = {(b[0].get_facecolor(), b[0].get_hatch()) for b in bars.values()}
    assert len(looks) == len(names)
    drawn = draw_tested(rows, "T1.6", tmp_path)
    assert {path.stem for path in drawn.paths} == {"rivals_pass1"}
    said = (tmp_path / "rivals_pass1.txt").read_text()
    assert "SSD (T1.6, solid)" in said and "min-p-0.1 1.5" in said and "9 test problems" in said


def test_figure_1_of_a_sweep_with_rivals_is_as_wide_as_a_page(tmp_path):
    table = sweep(ks=(1,))
    rival = table[table["T_train"].isna()].assign(
        policy="by-label(T_lock=0.5, T_other=1.0)", model="r"
    )
    pictures = sweep_pictures(pd.concat([table, rival]))
    drawn = draw_sweep(
        {name: Missing("no") for name in pictures} | {"fig_1": pictures["fig_1"]}, tmp_path
    )
    assert {path.stem for path in drawn.paths} == {"fig_1"}  # a collapsed one would warn
    width = plt.imread(tmp_path / "fig_1.png").shape[1]
    assert width == pytest.approx(200 * PAGE_WIDTH, rel=0.02)
    assert "and the base by other rules" in (tmp_path / "fig_1.txt").read_text()


@pytest.mark.parametrize("student, shown, color", [
    (0.5, "+15.0", MODELS["ssd"]["color"]), (0.3, "\u22125.0", MODELS["base"]["color"]),
])  # fmt: skip
def test_fig_2_shades_the_margin(student, shown, color):
    frame = CURVE.assign(estimate=CURVE["estimate"].where(CURVE["model"] == "base", student))
    frame[["low", "high"]] = NAN
    ax = fig_2(frame, margin=Margin(0.35, student))
    (band,) = [p for p in ax.patches if p.get_alpha() == 0.14]
    assert sorted([band.get_y(), band.get_y() + band.get_height()]) == pytest.approx(
        sorted([0.35, student])
    )
    assert to_rgba(band.get_facecolor(), 1) == to_rgba(color)
    assert texts(ax) == [shown]


def test_fig_2_panels_are_groups_by_ks():
    panels = {
        (group, k): (CURVE.assign(k=k), Margin(0.35, 0.5)) for group in ("all", "hard")
        for k in (1, 5)
    }  # fmt: skip
    labels = [ax.get_ylabel() for ax in fig_2_panels(panels).axes]
    assert labels == ["pass@1, all", "pass@5, all", "pass@1, hard", "pass@5, hard"]


def test_fig_2_bars_leave_out_what_is_not_known():
    frame = pd.DataFrame({"name": ["a", "yours"], "base": [0.4, NAN], "best": [0.45, 0.3],
                          "ssd": [0.55, 0.32], "margin": [0.1, 0.02]})  # fmt: skip
    ax = fig_2_bars(frame, own=1)
    heights = [[bar.get_height() for bar in group] for group in ax.containers]
    np.testing.assert_equal(heights, [[0.4, NAN], [0.45, 0.3], [0.55, 0.32]])
    assert texts(ax) == ["+10.0", "+2.0"]
    ax.figure.canvas.draw()


def test_fig_3a_dots_fits_and_baseline():
    fits, curves = fit_settings(POINTS)
    ax = fig_3a(POINTS, fits, curves, 0.33)
    dots = {c.get_label(): c.get_offsets().data for c in ax.collections}
    assert list(dots) == ["no truncation ($R^2$ = 1.00, peak 1.20)", "top-k 5 (no fit)"]
    np.testing.assert_allclose(list(dots.values())[1], [[1.0, 0.3], [1.5, 0.4]])
    fit = ax.lines[0]
    expected = 0.4 - 0.1 * (fit.get_xdata() - 1.2) ** 2
    np.testing.assert_allclose(fit.get_ydata(), expected)
    assert len(ax.lines[1].get_xdata()) == 0  # no fit, no curve
    level = ax.lines[2]
    assert list(level.get_ydata()) == [0.33, 0.33] and level.get_linestyle() == "--"
    outside = fig_3a(POINTS, fits.assign(inside=False), curves)
    assert outside.collections[0].get_label() == "no truncation ($R^2$ = 1.00)"
    with pytest.raises(UserError, match="one k"):
        fig_3a(pd.concat([POINTS, POINTS.assign(k=5)]), fits, curves)


def test_fig_3b_cells_best_and_holes():
    ax = fig_3b(GRID)
    np.testing.assert_allclose(ax.images[0].get_array().filled(NAN), 100 * GRID)
    assert ax.images[0].origin == "lower"  # the higher T_train stands higher
    assert texts(ax) == ["30.0", "50.0", "10.0", "20.0", "45.0"]
    (hole,) = [p for p in ax.patches if p.get_hatch()]
    assert (hole.get_x(), hole.get_y()) == (0.5, -0.5)
    (best,) = [p for p in ax.patches if not p.get_hatch()]
    assert (best.get_x(), best.get_y()) == (1.5, -0.5)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0.5", "0.7", "0.9"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["1", "1.6"]
    with pytest.raises(UserError, match="no cell with a value"):
        fig_3b(GRID * NAN)


def test_fig_3b_panels_share_one_scale():
    fig = fig_3b_panels({"no truncation": GRID, "top-k 5": GRID / 2})
    maps = [ax for ax in fig.axes if ax.images and ax.get_title(loc="left")]
    assert [ax.get_title(loc="left") for ax in maps] == ["no truncation", "top-k 5"]
    assert [ax.images[0].get_clim() for ax in maps] == [(5, 50)] * 2


def test_fig_7_has_a_curve_a_model_and_k():
    frame = pd.concat([CURVE, CURVE.assign(k=5, estimate=CURVE["estimate"] + 0.1)])
    ax = fig_7(frame)
    heights = [y for line in ax.lines for y in line.get_ydata()]
    assert heights == pytest.approx([0.3, 0.35, 0.4, 0.45, 0.5, 0.6])
    names = [t.get_text() for t in ax.get_legend().get_texts()]
    assert names == ["base, pass@1", "base, pass@5", "SSD, pass@1", "SSD, pass@5"]
    fills = [line.get_markerfacecolor() for line in ax.lines]
    assert fills == [MODELS["base"]["color"], "white", MODELS["ssd"]["color"], "white"]


def test_fig_7_shows_the_start_of_a_sample_that_cannot_break_it():
    left, right = fig_7_panels(CURVE, "$x_{ \tif 漢:\n" + "word " * 4000).axes
    shown = left.texts[0].get_text().split("\n")
    assert shown[0] == "$x_{     if □:" and shown[-1] == "…" and len(shown) < 25
    assert len(right.lines) == 2
    left.figure.canvas.draw()


def test_fig_8_has_a_panel_a_step_and_pales_what_it_removes():
    logits = np.log([0.4, 0.3, 0.2, 0.07, 0.03])
    decoding = Decoding(1.0, 4, 0.8)
    frame = decoding_steps(logits, decoding).assign(token=lambda f: "$t_" + f["rank"].astype(str))
    fig = fig_8(frame)
    titles = [ax.get_title(loc="left") for ax in fig.axes]
    assert titles == ["model: softmax(z)", "1. top-k 4", "2. top-p 0.8", "3. renormalised: drawn"]
    nucleus = fig.axes[2]
    pale = [bar.get_height() for bar in nucleus.patches if bar.get_alpha() < 1]
    full = [bar.get_height() for bar in nucleus.patches if bar.get_alpha() == 1]
    np.testing.assert_allclose(full, np.array([0.4, 0.3, 0.2]) / 0.97)
    np.testing.assert_allclose(pale, [0.07 / 0.97, 0])
    assert texts(nucleus) == ["3 kept, mass 0.928"]
    assert list(nucleus.lines[0].get_xdata()) == [3.5, 3.5]
    fig.canvas.draw()
    both = fig_8(pd.concat([frame.assign(label=name) for name in ("fork", "lock")]))
    assert len(both.axes) == 8
    assert both.axes[4].get_ylabel() == "a lock: probability"


@pytest.mark.parametrize("figure, frame", [(fig_1, PAIRS), (fig_7, CURVE)])
def test_a_missing_column_or_an_empty_frame_is_one_line(figure, frame):
    with pytest.raises(UserError, match="lacks the columns: estimate"):
        figure(frame.drop(columns="estimate"))
    with pytest.raises(UserError, match="no rows"):
        figure(frame.iloc[:0])


def test_a_whole_sweep_draws_everything(tmp_path):
    paths, missing = draw_sweep(sweep_pictures(sweep(), "def f(:\n"), tmp_path)
    assert missing == []
    stems = {"fig_1", "fig_2", "fig_3a", "fig_3b", "fig_7", "fig_9", "fig_10", "fig_11", "fig_15"}
    assert {path.name for path in paths} == {f"{stem}.png" for stem in stems}
    assert all((tmp_path / f"{stem}.{end}").stat().st_size for stem in stems
               for end in ("png", "pdf", "svg", "txt"))  # fmt: skip
    caption = (tmp_path / "fig_2.txt").read_text()
    assert "ssd-0-2.0 trained at T=2; evaluated at T=0.5, top-k 20, top-p 0.8" in caption
    assert "131 problems" in caption
    fits = (tmp_path / "fig_3a.txt").read_text()
    assert "no truncation: 9 points, R^2 = 1.00, peak at T_eff = 1.00 [1.00, 1.00]" in fits
    assert "top-k 5: 3 points, no fit" in fits


@pytest.mark.parametrize("table, stems, reason", [
    (sweep(students=()), {"fig_1", "fig_2", "fig_3a", "fig_3b", "fig_7", "fig_9", "fig_10",
                          "fig_11", "fig_15"}, "no trained model"),
    (sweep(base=False), {"fig_1", "fig_2", "fig_7", "fig_15"}, "no base model"),
    (sweep(students=[(5, 1.6)]), {"fig_7", "fig_15"}, "without truncation at T_train >= 2"),
    (sweep(ks=(1,)), {"fig_9", "fig_11"}, "a second k is needed"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_named_with_its_reason(tmp_path, monkeypatch, table, stems, reason):
    def touch(figure, stem, caption):  # rendering is slow, and the test above renders each
        stem.parent.mkdir(exist_ok=True)
        stem.with_suffix(".png").write_text(caption)
        return [stem.with_suffix(".png")]

    monkeypatch.setattr("ssd_probe.figures.saving.save", touch)
    paths, missing = draw_sweep(sweep_pictures(table), tmp_path)
    assert {stem for stem, _ in missing} == stems
    assert all(reason in why and "\n" not in why for _, why in missing)
    drawn = {path.stem for path in paths if path.suffix == ".png"}
    assert not drawn & stems and {path.stem for path in tmp_path.glob("fig_*")} == drawn


def test_the_published_figures_and_table_alone_and_beside_the_users(tmp_path):
    alone = figures_stage(None, None, True, tmp_path / "alone")
    names = ["published_fig_1.png", "published_fig_2.png", "published_table_2.md",
             "published_table_2.tex"]  # fmt: skip
    assert alone == [str(tmp_path / "alone" / name) for name in names]
    assert len((tmp_path / "alone" / names[2]).read_text().splitlines()) == 2 + 12
    shown = published_pictures(sweep())
    table = to_markdown(table_2(shown.scores)).splitlines()
    assert len(table) == 2 + 14
    assert table[-2].startswith("| yours: ssd-0-2.0 | 42.0 | 62.0 | 47.0 | 22.0 |")
    draw_published(shown, tmp_path / "own")
    assert "your own" in (tmp_path / "own" / "published_fig_1.txt").read_text()
    with pytest.raises(UserError, match="no trained model"):
        published_pictures(sweep(students=()))
