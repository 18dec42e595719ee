# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Predict before you train
#
# From the *base's* probe alone: what could self-distillation at each T_train do at best? Then the
# outcome: how far the really trained student is from that. Reads a run, as notebook 01 does
# (`SSD_PROBE_RUN`).

# %%
import os
import textwrap

import numpy as np

from ssd_probe import Decoding, Run
from ssd_probe.analysis.labels import SupportRule
from ssd_probe.analysis.prediction.check import check_prediction
from ssd_probe.analysis.prediction.plot_data import prediction_pictures
from ssd_probe.analysis.prediction.positions import draw_positions, same_positions
from ssd_probe.analysis.prediction.predict import predict
from ssd_probe.figures.prediction import fig_check, fig_map
from ssd_probe.figures.style import paper_style
from ssd_probe.views.prediction import BOUND, measured, sentence


def say(sentence: str) -> None:
    """On lines that fit a page."""
    print(textwrap.fill(sentence, 100))


run = Run.load(os.environ.get("SSD_PROBE_RUN", "../runs/demo"))
trained = run.decoding()
say(f"The base's probe on {run.about()}. {BOUND}")

# %% [markdown]
# ## The students one could train
# All at the main arm's truncation, each at its own T_train; every one decoded over T_eval. A
# student that fits its target exactly is the base at T_train times T_eval on the training support
# (Prop. B.2), so its distributions are known without training.

# %%
trains = [Decoding(t, trained.top_k, trained.top_p) for t in (0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)]
evals = [Decoding(t, trained.top_k, trained.top_p) for t in (0.4, 0.7, 1.0, 1.3, 1.6, 1.9, 2.2)]
sample = draw_positions(run.probe("base"), SupportRule(), positions=4_000)
found = predict(sample, trains, evals)
count = found.positions
say(f"{count['lock']:,} locks and {count['fork']:,} forks. {found.limits}.")

# %% [markdown]
# ## The room for T_eval
# Below T_low the forks are shut, above T_high the locks let distractors in. The more the forks
# branch at T_high, the more T_eval can do.

# %%
for row in found.intervals.to_dict("records"):
    say(sentence(row, found.span))

# %% [markdown]
# The map: on the left how precise locks are, on the right how much forks branch, over T_train and
# T_eval, the base in the row below. Look for outlined cells, where both are served.

# %%
pictures = prediction_pictures(found)
(shown,) = pictures.maps.values()
with paper_style():
    fig_map(shown)

# %%
students = shown.dropna(subset=["T_train"])
served = students["feasible"].mean()
say(
    f"{served:.0%} of the students' cells serve both, of the base's "
    f"{shown[shown['T_train'].isna()]['feasible'].mean():.0%}. Locks are least precise at T_train "
    f"{students.loc[students['precision'].idxmin(), 'T_train']:g}."
)

# %% [markdown]
# ## The outcome
# The main arm was really trained. The same positions, in its probe: base, ideal fit, and the
# student as it is. Look for where the student's line lies, between the base's and the ideal one.

# %%
one = predict(sample, [trained], evals)
student = same_positions(run.probe("base"), run.probe("main"), sample)
check = check_prediction(one, sample, student)
(curves,) = prediction_pictures(one, check).checks.values()
with paper_style():
    fig_check(curves)

# %%
for line in measured(check, one):
    say(line)

# %%
errors = check.errors[check.errors["label"].isin(["lock", "fork"])]
near, of = errors["nearer"].sum(), errors["of"].sum()
way = "mostly came" if near > of / 2 else "mostly did not come"
say(
    f"At {near} of {of} points the ideal fit is no farther from the student than the base is: the "
    f"change {way} as predicted. A relative error of 1 is that of predicting no change; here it "
    f"is {np.nanmin(errors['relative']):.2f} at best, {np.nanmax(errors['relative']):.2f} at worst."
)

# %% [markdown]
# ## What it does not predict
# Whether programs pass. T_eval was chosen on dev problems; here is that beside the predicted
# room.

# %%
best = run.summary["best_temperature"]
base_room = found.intervals[found.intervals["T_train"].isna()].iloc[0]
own_room = one.intervals[one.intervals["T_train"].notna()].iloc[0]
for name, room in (("base", base_room), (run.main, own_room)):
    high = "none" if np.isnan(room["T_high"]) else f"up to {room['T_high']:.2f}"
    say(f"{name}: locks precise {high}; best T_eval on dev {best[name]:g}.")
say("Programs can pass with a loose lock or a shut fork: this is a bound, and no forecast.")

# %% [markdown]
# What the run itself had predicted before its test problems were touched, where it was asked to
# (`predict: true` in the declaration):

# %%
for line in run.summary["prediction"][:3] or ["It was not asked."]:
    say(line)
