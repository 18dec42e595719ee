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
# # The paper's figures, of your run
#
# For each figure: what to look for, the picture, what it shows here in a sentence, and what it
# cannot say. Reads a run, as notebook 01 does (`SSD_PROBE_RUN`). Figures 3, 7, 9-11 and 15 need a
# grid of settings (`ssd-probe sweep`), 12-14 no model at all (`ssd-probe toy`).

# %%
import os
import textwrap

import matplotlib.pyplot as plt
import pandas as pd

from ssd_probe import Run
from ssd_probe.figures.changes import fig_4_bars, fig_loss, fig_rates_panels
from ssd_probe.figures.distributions import fig_4, fig_5_pair, fig_6a, fig_6b, fig_6c, fig_6d
from ssd_probe.figures.pass_at_k import fig_1, fig_2
from ssd_probe.figures.steps import fig_8
from ssd_probe.figures.style import PAGE_WIDTH, paper_style
from ssd_probe.views.readings import read_gains, read_out, read_passes


def say(sentence: str) -> None:
    """On lines that fit a page."""
    print(textwrap.fill(sentence, 100))


run = Run.load(os.environ.get("SSD_PROBE_RUN", "../runs/demo"))
found = run.compare()
told = read_out(found)
curves = run.dev_curves()
first_k = None if curves is None else curves[curves["k"] == curves["k"].min()]
say(f"Base and {run.main} of {run.summary['model']}, {found.where}; decoding {found.decoding}.")
for doubt in run.summary["doubts"]:
    say(f"Read with care: {doubt}.")

# %% [markdown]
# ## Figure 1: did it help?
# *Look for:* the solid bar above the hatched one, and in which group of problems the gain, written
# above, is largest. Each model at its own T_eval, on the test problems.

# %%
gains = pd.DataFrame(run.summary["differences"])
gains = gains[(gains["model"] == run.main) & (gains["k"] == 1)].reset_index(drop=True)
pairs = gains[["group"]].rename(columns={"group": "name"})
with paper_style():
    bars = {"base": gains["base"], "ssd": gains["tuned"]}
    ax = fig_1(pd.concat(pairs.assign(model=name, estimate=bars[name]) for name in bars))
    ax.set_ylabel("pass@1")

# %%
say(read_gains(gains))

# %% [markdown]
# *It cannot say:* that self-distillation did it. The control, trained in the same way on samples
# without temperature and truncation, may gain too: notebook 01 ends with its numbers.

# %% [markdown]
# ## Figure 2: pass@k against T_eval
# *Look for:* each model's own best T_eval (stars), and how wide its plateau is.

# %%
with paper_style():
    if curves is not None:
        fig_2(first_k)

# %%
say("No dev problems were declared." if curves is None else read_passes(first_k))

# %% [markdown]
# *It cannot say:* whether the difference is real where bands overlap: these are dev problems, on
# which T_eval was chosen. The test problems decide that, in `summary.json`.

# %% [markdown]
# ## Figure 4: forks and locks in place
# *Look for:* where the writer has a choice. Forks are outlined, locks shaded, open positions
# dashed.

# %%
with paper_style():
    fig_4(found.text.head(200))

# %%
say(told["fig_4"])

# %% [markdown]
# *It cannot say:* that a fork's tokens are right. They are what would be drawn at the rule's
# decoding.

# %% [markdown]
# ## Figure 4, the bars: head and tail
# *Look for:* the hatched piece on top, the tail, which grows with T_eval at fork and lock alike.
# That is the conflict: one T_eval has to serve both.

# %%
with paper_style():
    fig_4_bars(found.bars)

# %%
say(told["fig_4_bars"])

# %% [markdown]
# *It cannot say:* how often. It is one fork and one lock, of the base.

# %% [markdown]
# ## Figure 5: ranked probabilities
# *Look for:* the fork's plateau, which should stay, and the lock's tail (logarithmic axis), which
# should fall.

# %%
with paper_style():
    fig_5_pair(found.ranked)

# %%
say(told["fig_5"])

# %% [markdown]
# *It cannot say:* what happens on average. The two positions are of median entropy, not the best
# looking.

# %% [markdown]
# ## Figure 6a: mass in nines
# *Look for:* the student's line above the base's: fewer ranks hold the same mass. A step up is a
# nine.

# %%
with paper_style():
    fig_6a(found.mass)

# %%
say(told["fig_6a"])

# %% [markdown]
# *It cannot say:* where. It is a mean over locks and forks alike, so a model that only became
# surer of everything looks the same.

# %% [markdown]
# ## Figures 6b and 6c: what truncation leaves
# *Look for:* from which T_eval on the lines part. The base lets in distractors where the student
# does not.

# %%
with paper_style():
    _, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.3))
    fig_6b(found.curves, left)
    fig_6c(found.curves, right)

# %%
say(told["fig_6b"] + " " + told["fig_6c"])

# %% [markdown]
# *It cannot say:* whether what is left is right; and most positions are locks in code, so the
# means are mostly theirs. `compare` tells them apart.

# %% [markdown]
# ## Figure 6d: entropy by top-20 mass
# *Look for:* bars of the student below the base's where little mass is in the head (to the
# right).

# %%
with paper_style():
    fig_6d(found.bins)

# %%
say(told["fig_6d"])

# %% [markdown]
# *It cannot say:* much where `n` is small. The bins are the base's.

# %% [markdown]
# ## Figure 8: the decoding, step by step
# *Look for:* how temperature lifts the tail, and what top-k and top-p then cut.

# %%
with paper_style():
    fig_8(found.steps)

# %%
say(told["fig_8"])

# %% [markdown]
# *It cannot say:* anything of the student: it is the base at Figure 5's fork and lock.

# %% [markdown]
# ## Not in the paper: how far training got
# *Look for:* bars that shrink. Mass outside the support, and shape inside.

# %%
with paper_style():
    fig_loss(found.loss)

# %%
say(told["loss_terms"])

# %% [markdown]
# *It cannot say:* that nearer is better. The target is the base's own, tempered and cut.

# %% [markdown]
# ## Not in the paper: where the forks are
# *Look for:* kinds of syntax with many forks, such as names and arguments.

# %%
with paper_style():
    fig_rates_panels(found.rates)

# %%
say(told["fork_rates"])

# %% [markdown]
# *It cannot say:* much in rows of few positions: their intervals are wide, or there is none.

# %% [markdown]
# As files, with captions and as PDF: `ssd-probe figures RUN`.
