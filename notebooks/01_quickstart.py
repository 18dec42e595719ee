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
# # A first look at a run
#
# What did fine-tuning do to a model's next-token distributions? Simple self-distillation (SSD)
# trains a model on its own samples, drawn hot and truncated. A **lock** is a position with one
# right token and a tail of distractors; a **fork** is one with several good tokens. SSD is said
# to cut the tail at locks and to keep the head at forks. Let us look.
#
# This notebook reads the run that `ssd-probe demo` left in `../runs/demo`. The variable
# `SSD_PROBE_RUN` names another one, of `ssd-probe demo --quick` or of `ssd-probe run`.

# %%
import os
import textwrap

import matplotlib.pyplot as plt
import pandas as pd

from ssd_probe import Run, sliders
from ssd_probe.figures.distributions import fig_5_pair, fig_6b, fig_6c
from ssd_probe.figures.style import PAGE_WIDTH, paper_style
from ssd_probe.views.readings import read_out
from ssd_probe.views.story import answers

# %load_ext ssd_probe


def say(sentence: str) -> None:
    """On lines that fit a page."""
    print(textwrap.fill(sentence, 100))


run = Run.load(os.environ.get("SSD_PROBE_RUN", "../runs/demo"))
say(f"Model {run.summary['model']}; main arm {run.main}, trained on samples at {run.decoding()}.")
say(f"Probed: {', '.join(run.models)}, on {run.about()}.")

# %% [markdown]
# ## Did it work?
# The programs of held-out problems were run: pass@1 of each model, at its own best T_eval.

# %%
for answer in answers(run.summary)[: len(run.summary["best_temperature"])]:
    say(answer)
for doubt in run.summary["doubts"]:
    say(f"Read with care: {doubt}.")

# %% [markdown]
# ## One row a position
# A probe holds, for the distribution *before* each token: its entropy in nats, the
# log-probability and rank of the token that stands there, the 64 likeliest tokens, and the log
# mass beyond them. Locks are green below, forks pink.

# %%
base = run.probe("base")
base

# %%
columns = ["token", "logprob", "rank", "entropy", "varentropy", "tail_log_mass"]
base.columns(columns).head(8)

# %% [markdown]
# ## What changed?
# One call compares base and student on the same tokens. A verdict is *yes* or *no* only where the
# whole interval says so. Fold out the statistics below the verdicts.

# %%
found = run.compare()
found

# %% [markdown]
# ## A fork and a lock
# The fork and the lock of median entropy. Bars of removed tokens are pale; the lock's axis is
# logarithmic, since its tail could not be seen otherwise.

# %%
with paper_style():
    fig_5_pair(found.ranked)

# %%
told = read_out(found)
say(told["fig_5"])

# %% [markdown]
# ## Move T_eval
# Raising T_eval explores forks and lets distractors back in at locks. On the left how many tokens
# survive truncation, on the right how much entropy is left.

# %%
with paper_style():
    _, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.3))
    fig_6b(found.curves, left)
    fig_6c(found.curves, right)

# %%
say(told["fig_6b"])
say(told["fig_6c"])

# %% [markdown]
# The same, live: run this cell and move temperature, top-k and top-p.

# %%
sliders(run.probe("base"), run.probe("main"))

# %% [markdown]
# ## In numbers
# The statistics by kind of position, with 95 % bootstrap intervals over problems.

# %%
table = found.comparison
shown = ["entropy", "tail_mass", "head_entropy", "branching"]
table[table["label"].isin(["lock", "fork", "open"]) & table["statistic"].isin(shown)].drop(
    columns=["problems", "missing"]
)

# %% [markdown]
# pass@k, `estimate` is the difference to the base. Then go on with
# [02_forks_and_locks](02_forks_and_locks.ipynb).

# %%
pd.DataFrame(run.summary["differences"])
