"""Each figure draws what its frame says, where it says: artists and coordinates, not pixels."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba

from ssd_probe.analysis.frames import Missing
from ssd_probe.errors import UserError
from ssd_probe.figures.changes import fig_rates_panels
from ssd_probe.figures.distributions import fig_4, fig_5, fig_5_pair, fig_6a, fig_6b, fig_6c, fig_6d
from ssd_probe.figures.pass_at_k import fig_2
from ssd_probe.figures.saving import Plan, save, save_all
from ssd_probe.figures.style import COLUMN_WIDTH, MODELS, paper_style

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

RANKS = np.arange(1, 6)


@pytest.fixture(autouse=True)
def _in_style_and_closed():
    with paper_style():
        yield
    plt.close("all")


def stack(**models: dict) -> pd.DataFrame:
    return pd.concat([pd.DataFrame(columns).assign(model=name) for name, columns in models.items()])


SWEEP = stack(
    ssd={"temperature": [0.5, 1.0, 1.5], "k": 1, "estimate": [0.5, 0.7, 0.6],
         "low": [0.4, 0.6, 0.5], "high": [0.6, 0.8, 0.7]},
    base={"temperature": [0.5, 1.0, 1.5], "k": 1, "estimate": [0.4, 0.3, 0.1],
          "low": [0.3, 0.2, 0.0], "high": [0.5, 0.4, 0.2]},
)  # fmt: skip
CURVES = stack(
    base={"temperature": [0.4, 1.2, 2.0], "survivors": [1, 2, 5], "entropy": [0.1, 0.4, 0.9]},
    ssd={"temperature": [0.4, 1.2, 2.0], "survivors": [1, 1.5, 3], "entropy": [0.1, 0.3, 0.7]},
)
MASS = stack(
    base={"rank": RANKS, "miss": 10.0**-RANKS}, ssd={"rank": RANKS, "miss": 10.0 ** (-1 - RANKS)}
)
BINS = stack(
    base={"bin": ["99.9 to 100", "99 to 99.9", "below 99"], "entropy": [0.1, 0.5, 1.0]},
    ssd={"bin": ["99.9 to 100", "99 to 99.9", "below 99"], "entropy": [0.05, 0.6, 1.2]},
)
TOKENS = ["$x", "\n    ", "for", " a_very_long_name", "☃漢"]
RANKED = stack(
    base={"rank": RANKS, "token": TOKENS, "probability": [0.5, 0.2, 0.1, 0.05, 1e-9],
          "kept": RANKS <= 3},
    ssd={"rank": RANKS, "token": TOKENS, "probability": [0.9, 0.05, 0.01, 1e-3, 0.0],
         "kept": RANKS <= 1},
)  # fmt: skip
CODE = pd.DataFrame(
    {
        "token": ["def", " f", "():", "\n    ", "return", " $x$", "\n", "☃" * 12],
        "label": ["lock", "fork", "open", "lock", "fork", "neither", "fork", "neither"],
        "branching": [1.0, 2.0, 1.3, 1.0, 19.0, 1.3, 2.0, 1.3],
    }
)
FIGURES = [
    (fig_2, SWEEP),
    (fig_5, RANKED),
    (fig_6a, MASS),
    (fig_6b, CURVES),
    (fig_6c, CURVES),
    (fig_6d, BINS),
]


def lines_of(ax) -> dict:
    """The labelled lines: label -> (colour, style, x, y)."""
    return {
        line.get_label(): (line.get_color(), line.get_linestyle(), *map(list, line.get_data()))
        for line in ax.lines
        if not line.get_label().startswith("_")
    }


@pytest.mark.parametrize("figure, frame", FIGURES)
def test_one_column_wide_base_first_and_one_model_is_enough(figure, frame):
    ax = figure(frame)
    ax.figure.canvas.draw()
    assert ax.figure.get_size_inches()[0] == COLUMN_WIDTH
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["base", "SSD"]
    assert ax.get_xlabel() and ax.get_ylabel()
    alone = figure(frame[frame["model"] == "ssd"])
    alone.figure.canvas.draw()
    assert [text.get_text() for text in alone.get_legend().get_texts()] == ["SSD"]


@pytest.mark.parametrize("figure, frame", [*FIGURES, (fig_4, CODE)])
def test_draws_into_the_given_axes(figure, frame):
    _, ax = plt.subplots()
    before = plt.get_fignums()
    assert figure(frame, ax) is ax
    assert plt.get_fignums() == before


@pytest.mark.parametrize("figure, frame, column", [
    (fig_2, SWEEP, "low"), (fig_4, CODE, "branching"), (fig_5, RANKED, "kept"),
    (fig_6a, MASS, "miss"), (fig_6b, CURVES, "survivors"), (fig_6c, CURVES, "entropy"),
    (fig_6d, BINS, "bin"),
])  # fmt: skip
def test_a_missing_column_or_an_empty_frame_is_one_line(figure, frame, column):
    with pytest.raises(UserError, match=f"lacks the columns: {column}"):
        figure(frame.drop(columns=column))
    with pytest.raises(UserError, match="no rows"):
        figure(frame.iloc[:0])


@pytest.mark.parametrize("figure, frame, x, y", [
    (fig_2, SWEEP, "temperature", "estimate"),
    (fig_6a, MASS, "rank", "miss"),
    (fig_6b, CURVES, "temperature", "survivors"),
    (fig_6c, CURVES, "temperature", "entropy"),
])  # fmt: skip
def test_lines_hold_the_frame_in_the_style_of_the_model(figure, frame, x, y):
    lines = lines_of(figure(frame))
    for name, look in MODELS.items():
        rows = frame[frame["model"] == name]
        if len(rows):
            expected = (look["color"], look["linestyle"], list(rows[x]), list(rows[y]))
            assert lines[look["name"]] == expected


def test_fig_2_bands_and_best_points():
    ax = fig_2(SWEEP)
    stars = [c.get_offsets().tolist() for c in ax.collections if len(c.get_offsets()) == 1]
    assert [[0.5, 0.4]] in stars and [[1.0, 0.7]] in stars
    band = ax.collections[0].get_paths()[0].vertices  # the base is drawn first
    assert (band[:, 1].min(), band[:, 1].max()) == (0.0, 0.5)
    assert ax.get_ylabel() == "pass@1"
    assert ax.yaxis.get_major_formatter()(0.425) == "42.5 %"


def test_fig_2_of_three_models_hides_none_behind_another():
    third = SWEEP[SWEEP["model"] == "base"].assign(model="other")
    ax = fig_2(pd.concat([SWEEP, third]))
    points = [c for c in ax.collections if isinstance(c, PathCollection)]
    sizes = {}
    for star in points:
        sizes.setdefault(tuple(star.get_offsets()[0]), []).append(star.get_sizes()[0])
    assert sorted(map(len, sizes.values())) == [1, 2]
    (both,) = [each for each in sizes.values() if len(each) == 2]
    assert both[0] > both[1]  # the first drawn shows around the other
    bands = [c for c in ax.collections if c not in points]
    assert len(bands) == 3 and all(not len(c.get_facecolor()) for c in bands)  # edges only


def test_fig_2_draws_a_single_setting_as_a_level_line():
    single = SWEEP[(SWEEP["model"] == "base") | (SWEEP["temperature"] == 1.0)]
    level = next(line for line in fig_2(single).lines if list(line.get_xdata()) == [0, 1])
    assert list(level.get_ydata()) == [0.7, 0.7]


def test_fig_2_refuses_two_ks():
    with pytest.raises(UserError, match="one k"):
        fig_2(pd.concat([SWEEP, SWEEP.assign(k=5)]))


def test_unknown_models_get_looks_of_their_own():
    frame = pd.concat([MASS, MASS.assign(model=MASS["model"] + "-v2")])
    lines = lines_of(fig_6a(frame))
    assert list(lines) == ["base", "SSD", "base-v2", "ssd-v2"]
    assert len({line[0] for line in lines.values()}) == 4


def test_fig_5_bars_fade_beyond_the_cutoff_that_the_line_marks():
    ax = fig_5(RANKED)
    base, ssd = ax.containers
    assert [bar.get_height() for bar in base] == [0.5, 0.2, 0.1, 0.05, 1e-9]
    assert [bar.get_alpha() == 1 for bar in base] == [True, True, True, False, False]
    assert [bar.get_alpha() == 1 for bar in ssd] == [True, False, False, False, False]
    assert base[0].get_hatch() and not ssd[0].get_hatch()
    centres = [bar.get_x() + bar.get_width() / 2 for pair in zip(base, ssd, strict=True)
               for bar in pair]  # fmt: skip
    np.testing.assert_allclose(np.reshape(centres, (5, 2)).mean(1), RANKS)
    assert (np.diff(centres) > 0.35).all()  # no bar covers another
    cuts = [line.get_xdata()[0] for line in ax.lines]
    np.testing.assert_allclose(cuts, [3.4, 1.6])  # after ranks 3 and 1, side by side
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert names == ["$x", "↵␣␣␣␣", "for", "␣a_very_…", "☃□"]


def test_fig_5_pair_shows_the_fork_s_head_and_the_lock_s_tail():
    both = pd.concat([RANKED.assign(label="fork"), RANKED.assign(label="lock")])
    fork, lock = fig_5_pair(both).axes
    assert (fork.get_yscale(), lock.get_yscale()) == ("linear", "log")
    assert lock.get_ylim()[0] == 1e-6
    told = both.assign(context=np.where(both["label"] == "fork", "x = 1\n    " * 20, ""))
    fork, lock = fig_5_pair(told).axes
    assert (fork.get_title(loc="left"), lock.get_title(loc="left")) == ("a fork, after", "a lock")
    [above] = [text.get_text() for text in fork.texts]
    assert (
        above.startswith("…")
        and above.endswith("x\u00a0=\u00a01↵\u00a0\u00a0▏")
        and len(above) == 49
    )
    with pytest.raises(UserError, match="no rows"):
        fig_5_pair(both[both["label"] == "fork"])


def test_fig_6a_climbs_by_nines():
    ax = fig_6a(MASS)
    bottom, top = ax.get_ylim()
    assert ax.get_yscale() == "log" and bottom > top  # a smaller miss is higher up
    assert ax.yaxis.get_major_formatter()(1e-3) == "$1-10^{-3}$"


def test_fig_6d_groups_bars_at_their_bin():
    ax = fig_6d(BINS.iloc[::-1].iloc[[2, 1, 0, 5, 4, 3]])
    assert [label.get_text() for label in ax.get_xticklabels()] == [
        "99.9\nto 100",
        "99\nto 99.9",
        "below\n99",
    ]
    for bars, heights in zip(ax.containers, ([0.1, 0.5, 1.0], [0.05, 0.6, 1.2]), strict=True):
        places = [round(bar.get_x() + bar.get_width() / 2) for bar in bars]
        assert dict(zip(places, [bar.get_height() for bar in bars], strict=True)) == dict(
            enumerate(heights)
        )


def test_fig_4_marks_forks_and_locks_where_the_characters_stand():
    ax = fig_4(CODE, columns=10)
    boxes = [
        (b.get_x(), round(b.get_y()), b.get_width(), b.get_linewidth() > 0) for b in ax.patches
    ]
    assert boxes == [
        (0, 0, 3, False),  # def, a lock
        (4, 0, 1, True),  # f, a fork, without the space before it
        (5, 0, 3, True),  # ():, open
        (4, 1, 6, True),  # return
        (4, 2, 1, True),  # the end of the line as a fork: its arrow, after the wrapped " $x$"
    ]
    opacity = [box.get_facecolor()[3] for box in ax.patches if box.get_linewidth() > 0]
    assert 0 < opacity[0] < opacity[2] == 1.0  # branching 2 against 19
    assert opacity[1] == 0 and ax.patches[2].get_linestyle() == "--"  # open: an outline alone
    keys = [text.get_text() for text in ax.get_legend().get_texts()]
    assert keys == ["fork, 1.5", "fork, 4", "fork, 12", "lock", "open"]
    assert ax.patches[0].get_facecolor() != to_rgba("white")
    cells = [(t.get_position()[0], int(t.get_position()[1]), t.get_text()) for t in ax.texts]
    assert (0, 2, " $x$") in cells  # wrapped, and not taken for mathematics
    assert [text for _, line, text in cells if line >= 3] == ["☃" * 10, "☃" * 2]


@pytest.mark.parametrize("size", [None, (6.6, 2.3), (3, 0.6)])
def test_fig_4_text_fills_its_cells_and_lines_keep_their_height(size):
    ax = plt.subplots(1, 2, figsize=size)[1][1] if size else None
    ax = fig_4(CODE.iloc[:3].assign(token=["x" * 20, " f", "():"]), ax, columns=40)
    ax.figure.canvas.draw()
    to_data = ax.transData.inverted()
    for text in ax.texts:
        box = text.get_window_extent().transformed(to_data)
        assert box.x0 == pytest.approx(text.get_position()[0], abs=0.15)
        if size != (3, 0.6):  # too low for its width: the text is as high as fits, and narrower
            assert box.width == pytest.approx(len(text.get_text()), abs=0.15)
    cell = np.abs(np.diff(ax.transData.transform([(0, 0), (1, 1)]), axis=0))[0]
    assert cell[1] / cell[0] <= 1.25 / 0.602 + 0.01


def test_characters_the_font_lacks_become_boxes_instead_of_warnings():
    ax = fig_4(CODE.assign(token="漢"))
    ax.figure.canvas.draw()
    assert {text.get_text() for text in ax.texts} == {"□"}


def test_save_writes_the_same_bytes_again_and_keeps_dots_in_the_name(tmp_path):
    paths = save(fig_6a(MASS).figure, tmp_path / "a" / "fig_T0.8", "Mean cumulative mass.")
    again = save(fig_6a(MASS).figure, tmp_path / "b" / "fig_T0.8", "Mean cumulative mass.")
    assert [path.name for path in paths] == [
        "fig_T0.8.png",
        "fig_T0.8.pdf",
        "fig_T0.8.svg",
        "fig_T0.8.txt",
    ]
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    assert paths[3].read_text() == "Mean cumulative mass.\n"
    assert b"<dc:date>" not in paths[2].read_bytes()
    assert b"CreationDate" not in paths[1].read_bytes()


def test_save_all_says_what_is_missing_and_leaves_no_figure_open(tmp_path):
    styled, opened = [], plt.get_fignums()

    def draw(frame):
        styled.append(plt.rcParams["font.size"])
        return fig_6a(frame), "Drawn."

    def fail(frame):
        plt.figure()
        raise UserError("no cell with a value")

    plans = [
        Plan("a", MASS, draw),
        Plan("b", Missing("too few ranks"), draw),
        Plan("c", MASS, fail),
        Plan("d", MASS, lambda frame: (fig_6a(frame).figure, "Whole.")),
    ]
    with plt.rc_context({"font.size": 30}):
        saved = save_all(plans, tmp_path)
    assert saved.paths == [tmp_path / "a.png", tmp_path / "d.png"] and styled == [7.5]
    assert saved.missing == [("b", "too few ranks"), ("c", "no cell with a value")]
    assert saved.lines()[-1] == "no c: no cell with a value"
    assert plt.get_fignums() == opened
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written .*choose another --out"):
        save_all(plans, tmp_path / "file")
    assert plt.get_fignums() == opened


def test_paper_style_leaves_the_settings_as_they_were():
    with plt.rc_context():
        matplotlib.rcdefaults()
        before = dict(plt.rcParams)
        with paper_style():
            assert plt.rcParams["font.size"] == 7.5
        assert dict(plt.rcParams) == before


def test_every_fork_rate_is_within_the_axis():
    """The panels share an axis: it ended at the first one's highest rate. Now it is 0 to 1."""
    rates = {"segment": [0.1, 0.3], "syntax": [0.84, 0.0, 1.0], "depth": [0.2]}
    frame = pd.DataFrame([
        {"by": way, "group": f"{way} {i}", "positions": 100 - i, "fork_rate": rate,
         "low": 0.9 * rate, "high": min(1.0, 1.1 * rate), "open_rate": (1 - rate) / 2,
         "open_low": 0.0, "open_high": 1 - rate}
        for way, given in rates.items() for i, rate in enumerate(given)
    ])  # fmt: skip
    with paper_style():
        for ax in fig_rates_panels(frame).axes:
            assert ax.get_xlim() == (0, 1)
            fork, open_ = ax.containers
            rows = frame[
                frame["group"].isin([t.get_text().split(" (")[0] for t in ax.get_yticklabels()])
            ]
            for drawn, column in ((fork, "fork_rate"), (open_, "open_rate")):
                assert list(drawn.lines[0].get_xdata()) == list(rows[column])
        alone = fig_rates_panels(frame.assign(open_rate=0.0, open_low=0.0, open_high=0.0))
        assert all(len(ax.containers) == 1 for ax in alone.axes)  # no open positions, no marks
    plt.close("all")
