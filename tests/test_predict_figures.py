"""The map and the comparison draw what their frames say: artists and coordinates, not pixels."""

import matplotlib
import numpy as np
import pandas as pd
import pytest

from ssd_probe.analysis.prediction.feasible import Limits
from ssd_probe.analysis.prediction.plot_data import PredictionPictures, RivalCurves
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.figures.prediction import (
    draw_prediction,
    fig_check,
    fig_map,
    fig_map_panel,
    fig_rivals,
)
from ssd_probe.figures.style import MODELS, paper_style

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

T_EVAL = [0.5, 1.0, 2.0]
PRECISION = {np.nan: [1.0, 0.9, 0.5], 1.2: [1.0, 1.0, 0.8], 1.6: [1.0, 0.998, 0.7]}
BRANCHING = {np.nan: [1.0, 1.5, 3.0], 1.2: [1.1, 1.7, 2.5], 1.6: [1.3, 2.0, 2.2]}
FEASIBLE = {np.nan: [False, True, False], 1.2: [True, True, False], 1.6: [False, True, False]}
MAP = pd.DataFrame([
    {"model": "base" if np.isnan(t) else "ideal fit", "T_train": t, "T_eval": e, "precision": p,
     "branching": b, "feasible": f}
    for t in PRECISION
    for e, p, b, f in zip(T_EVAL, PRECISION[t], BRANCHING[t], FEASIBLE[t], strict=True)
]).assign(top_k_train=20, top_p_train=0.8, top_k_eval=20, top_p_eval=0.8)  # fmt: skip
MAP.loc[MAP["T_train"].isna(), ["top_k_train", "top_p_train"]] = np.nan
CURVES = pd.DataFrame([
    {"model": model, "label": label, "T_eval": t, "entropy": t * i, "survivors": 1 + t * i,
     "top1": 1 / (1 + t * i), "top_k_eval": 20, "top_p_eval": 0.8}
    for i, model in enumerate(("base", "ideal fit", "ssd"), 1) for label in ("lock", "fork", "all")
    for t in T_EVAL
])  # fmt: skip


@pytest.fixture(autouse=True)
def _in_style_and_closed():
    with paper_style():
        yield
    plt.close("all")


def panel(column="precision", frame=MAP, **options):
    return fig_map_panel(frame, column, plt.subplots()[1], **options)


def cells(ax) -> dict:
    """Value and text of each cell by the names of its row and column."""
    rows = {
        round(y, 3): label.get_text()
        for y, label in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)
    }
    columns = [label.get_text() for label in ax.get_xticklabels()]
    texts = {tuple(np.round(t.get_position(), 3)): t.get_text() for t in ax.texts}
    found = {}
    for mesh in ax.collections[::2]:
        values, corners = mesh.get_array(), mesh.get_coordinates()
        for (row, column), value in np.ndenumerate(values):
            x, y = corners[row : row + 2, column : column + 2].reshape(-1, 2).mean(0)
            key = rows[round(y, 3)], columns[round(x)]
            found[key] = (value, texts.get((round(x, 3), round(y, 3))))
    return found


def test_map_cells_hold_the_frame_whatever_its_order():
    for frame in (MAP, MAP.sample(frac=1, random_state=0)):
        found = cells(panel(frame=frame))
        assert len(found) == 9
        for train, values in PRECISION.items():
            row = "base" if np.isnan(train) else f"{train:g}"
            assert [found[row, f"{t:g}"][0] for t in T_EVAL] == values


def test_numbers_in_the_cells_are_short_and_of_masses_finer():
    masses = cells(panel(vmax=1.0))
    assert [masses["1.6", t][1] for t in ("0.5", "1", "2")] == ["1", ".998", ".700"]
    tokens = cells(panel("branching"))
    assert [tokens["base", t][1] for t in ("0.5", "1", "2")] == ["1.00", "1.50", "3.00"]


def test_base_and_students_share_one_scale_and_the_base_stands_apart_below():
    ax = panel("branching")
    base, _, students, _ = ax.collections
    assert base.get_clim() == students.get_clim() == (1.0, 3.0)
    assert base.get_coordinates()[..., 1].max() < students.get_coordinates()[..., 1].min()
    order = [label.get_text() for label in ax.get_yticklabels()]
    assert order == ["base", "1.2", "1.6"]


def test_outline_runs_around_the_union_of_feasible_cells():
    outline = panel().collections[3].get_segments()
    sides = {frozenset(map(tuple, side)) for side in outline}
    around = [(-0.5, -0.5), (0.5, -0.5), (1.5, -0.5), (1.5, 0.5), (1.5, 1.5), (0.5, 1.5),
              (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5)]  # fmt: skip
    assert sides == {frozenset(pair) for pair in zip(around, around[1:], strict=False)}
    of_base = panel().collections[1].get_segments()
    assert len(of_base) == 4  # one cell
    assert np.ptp([point[0] for side in of_base for point in side]) == 1


def test_a_missing_cell_stays_blank_and_a_map_needs_no_base():
    frame = MAP.dropna(subset=["T_train"]).iloc[1:]
    found = cells(panel(frame=frame))
    assert np.ma.is_masked(found["1.2", "0.5"][0]) or np.isnan(found["1.2", "0.5"][0])
    assert found["1.2", "0.5"][1] is None and len(found) == 6


def test_numbers_are_left_out_where_they_would_not_fit():
    wide = pd.concat([MAP.assign(T_eval=MAP["T_eval"] + i) for i in np.arange(0, 0.5, 0.1)])
    assert not panel(frame=wide).texts


def test_fig_map_is_precision_beside_branching():
    left, right = fig_map(MAP).axes
    assert cells(left)["base", "2"][0] == 0.5 and cells(right)["base", "2"][0] == 3.0
    assert left.collections[0].get_clim()[1] == 1.0  # a mass of 1 looks alike in every map


def test_comparison_draws_three_models_locks_above_forks():
    axes = fig_check(CURVES).axes
    for ax, (label, column) in zip(axes, [(label, column) for label in ("lock", "fork")
                                          for column in ("entropy", "survivors", "top1")],
                                   strict=True):  # fmt: skip
        for name, shown in (("base", "base"), ("ssd", "SSD"), ("ideal fit", "ideal fit")):
            rows = CURVES[(CURVES["model"] == name) & (CURVES["label"] == label)]
            drawn = next(line for line in ax.lines if line.get_label() == shown)
            assert list(drawn.get_xdata()) == T_EVAL
            assert list(drawn.get_ydata()) == list(rows[column])
    ssd = next(line for line in axes[0].lines if line.get_label() == "SSD")
    assert ssd.get_color() == MODELS["ssd"]["color"]
    assert len({line.get_linestyle() for line in axes[0].lines}) == 3  # told apart in grey


def test_draw_prediction_makes_a_map_for_each_pair_of_truncations(tmp_path):
    maps = {((20, 0.8), (20, p)): MAP.assign(top_p_eval=p) for p in (0.8, 0.95)}
    shown = PredictionPictures(maps, {(20, 0.8): CURVES}, Limits(), 9, 4, Decoding(1.6, 20, 0.8))
    drawn = draw_prediction(shown, tmp_path)
    assert [path.name for path in drawn.paths] == [
        "predict_train_k20_p0.8_eval_k20_p0.8.png",
        "predict_train_k20_p0.8_eval_k20_p0.95.png",
        "predict_student_eval_k20_p0.8.png",
    ]
    assert drawn.missing == [] and len(list(tmp_path.iterdir())) == 12
    caption = (tmp_path / "predict_train_k20_p0.8_eval_k20_p0.95.txt").read_text()
    said = ("top-p 0.95", "9 locks and 4 forks", "Outlined: T_eval serves where 99 % of locks")
    assert all(words in caption for words in said)


@pytest.mark.parametrize("column", ["T_train", "T_eval", "precision", "branching", "feasible"])
def test_a_missing_column_an_empty_frame_and_two_truncations_are_one_line(column):
    with pytest.raises(UserError, match=f"lacks the columns: {column}"):
        fig_map(MAP.drop(columns=column))
    with pytest.raises(UserError, match="no rows"):
        fig_map(MAP.iloc[:0])
    with pytest.raises(UserError, match="one truncation"):
        fig_map(pd.concat([MAP, MAP]))
    with pytest.raises(UserError, match="at forks holds no rows"):
        fig_check(CURVES[CURVES["label"] == "lock"])


RIVALS = pd.DataFrame([
    {"model": model, "temperature": t, "slip": 0.001 * t * i, "tail": 0.002 * t * (i - 1),
     "head_entropy": 0.5 + 0.1 * t * i}
    for i, model in enumerate(("base", "student of T=1.6", "min-p(min_p=0.1)"), 1) for t in T_EVAL
])  # fmt: skip


def test_rivals_are_curves_over_t_of_head_entropy_against_each_price():
    fig = fig_rivals(RIVALS.sample(frac=1, random_state=0), slip=0.002)
    (legend,) = fig.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["base", *(name for name in names if name != "base")] and len(names) == 3
    for ax, price in zip(fig.axes, ("slip", "tail"), strict=True):
        drawn = {line.get_label(): line for line in ax.lines if line.get_label() in names}
        for name, rows in RIVALS.groupby("model"):
            assert drawn[name].get_xdata().tolist() == rows[price].tolist()
            assert drawn[name].get_ydata().tolist() == rows["head_entropy"].tolist()
        looks = {(each.get_color(), each.get_marker()) for each in drawn.values()}
        assert len(looks) == 3
        assert ax.get_xlim()[0] == 0
    assert [line.get_xdata()[0] for line in fig.axes[0].lines if line.get_linestyle() == ":"] == [
        0.002
    ]


def test_rivals_have_a_figure_and_a_caption_that_says_what_is_drawn(tmp_path):
    rivals = RivalCurves(RIVALS, 0.002, Decoding(1.6, 20, 0.8), Decoding(1.0, 20, 0.8))
    shown = PredictionPictures({}, {}, Limits(), 3, 4, Decoding(1.6, 20, 0.8), rivals)
    drawn = draw_prediction(shown, tmp_path)
    assert {path.stem for path in drawn.paths} == {"predict_rivals"} and not drawn.missing
    said = (tmp_path / "predict_rivals.txt").read_text()
    assert "dotted: 0.002" in said and "base and student with top-k 20, top-p 0.8" in said
