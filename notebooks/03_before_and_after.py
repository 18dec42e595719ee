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
# # Before and after: what training changed
#
# Base and student on the same tokens, compared at locks, forks and open positions; how far that
# can be trusted. Reads a run, as notebook 01 does (`SSD_PROBE_RUN`).

# %%
import os
import tempfile
import textwrap
from pathlib import Path

import pandas as pd

from ssd_probe import Probe, Run, explore
from ssd_probe.analysis.compare import compare
from ssd_probe.analysis.examples.changed import most_changed
from ssd_probe.analysis.labels import SupportRule
from ssd_probe.analysis.sweeps.printed import comparison_table
from ssd_probe.commands.compare import paired_parts
from ssd_probe.commands.probe import probe_stage
from ssd_probe.figures.changes import fig_loss
from ssd_probe.figures.distributions import fig_5_pair
from ssd_probe.figures.style import paper_style
from ssd_probe.probing.config import ProbeConfig
from ssd_probe.views.comparison import sentences
from ssd_probe.views.readings import read_out

# %load_ext ssd_probe


def say(sentence: str) -> None:
    """On lines that fit a page."""
    print(textwrap.fill(sentence, 100))


run = Run.load(os.environ.get("SSD_PROBE_RUN", "../runs/demo"))
say(f"{run.main}, trained on samples at {run.decoding()}, against the base, on {run.about()}.")

# %% [markdown]
# ## Three claims, three verdicts
# Everything is measured against one set of tokens: those that the *base* keeps under the training
# decoding. The mass outside it is the tail, the distribution inside it is the head. A verdict
# needs an interval that lies on one side of its limit; else it is *undecided*.

# %%
found = run.compare()
for sentence in sentences(found):
    say(sentence)

# %% [markdown]
# ## Locks, forks, open positions
# Below: the means of both models, and the difference with its 95 % bootstrap interval over
# problems. Where no row says *open*, the rule found no open position.

# %%
told = ["entropy", "tail_mass", "head_entropy", "branching", "target_kl"]
table = found.comparison
kinds = table["label"].isin(["lock", "fork", "open"])
comparison_table(table[kinds & table["statistic"].isin(told)])

# %%
means = table.set_index(["label", "statistic"])
for kind in ("lock", "fork", "open"):
    if (kind, "entropy") in means.index:
        row = means.loc[kind, "entropy"]
        change = row["difference"] / row["base"]
        say(
            f"{kind}: {int(row['positions']):,} positions, entropy {row['base']:.3f} -> "
            f"{row['tuned']:.3f} nats ({change:+.0%})."
        )

# %% [markdown]
# ## One of each
# Look for: the lock's pale bars, its tail, fall; the fork's first bars stay. Two positions prove
# nothing, they show what the means are means of.

# %%
with paper_style():
    fig_5_pair(found.ranked)

# %%
read = read_out(found)
say(read["fig_5"])

# %% [markdown]
# ## How far did training get?
# Training draws the student towards a target q, the base tempered on its support. KL(q || p) is
# how far away a model is, and it has two parts: mass outside the support, and shape inside.

# %%
with paper_style():
    fig_loss(found.loss)

# %%
say(read["loss_terms"])
say("A student that hardly moved says little of self-distillation, whatever else it does.")

# %% [markdown]
# ## Where most?
# The positions of largest total variation between the models, one of a problem at most.

# %%
base, tuned = run.probe("base"), run.probe("main")
changed = most_changed(paired_parts(base, tuned), SupportRule(), count=6)
changed["context"] = changed["context"].str[-30:].map(repr)
changed[["problem_id", "position", "token", "label", "change", "context"]]

# %%
counted = ", ".join(f"{count} {kind}" for kind, count in changed["label"].value_counts().items())
say(f"The largest change is {changed['change'].max():.2f} of the mass; by kind: {counted}.")

# %% [markdown]
# Every token of both models, live, with the first of these selected. Click it: the panel shows
# the leading tokens before and after.

# %%
viewer = explore(base, tuned)
viewer.show(changed["sample_id"].iloc[0], changed["position"].iloc[0])
viewer

# %%
viewer.selected[["model", "token", "entropy", "logprob", "rank"]]

# %% [markdown]
# ## The noise floor
# The same model scored again, in batches of another shape, gives other last bits. No smaller
# difference is real. A few texts are enough to see how large that is (this loads the base).

# %%
with tempfile.TemporaryDirectory() as folder:
    again = Path(folder) / "again"
    config = ProbeConfig(noise_floor=2)
    probe_stage(run.folder.loop.model, [run.source()], again, config, limit=4)
    noise = Probe.load(again).noise

frame = base.frame
floors = compare(
    frame, tuned.frame, SupportRule().label(frame), run.decoding(), noise=noise, n_resamples=200
)
floors = floors[floors["label"].isin(["lock", "fork"]) & floors["statistic"].isin(told)]
floors[["label", "statistic", "difference", "floor"]]

# %%
under = floors["difference"].abs() < floors["floor"]
say(
    f"The floor is at most {floors['floor'].max():.1e}; {under.sum()} of these {len(floors)} "
    "differences are below theirs."
)

# %% [markdown]
# ## Is it self-distillation, or just training?
# A control is trained in the same way on samples without temperature and truncation, of which the
# theory expects nothing. What it changes too is not the method's. (Where the run has not probed
# its control, the cell does.)

# %%
rows = {run.main: table}
for control in run.controls[:1]:
    if control in run.models:
        rows[control] = run.compare(control).comparison
    else:
        with tempfile.TemporaryDirectory() as folder:
            probed = Path(folder) / "control"
            probe_stage(run.folder.checkpoint(control), [run.source()], probed, ProbeConfig())
            other = Probe.load(probed).frame
        label = SupportRule().label(frame)
        rows[control] = compare(frame, other, label, run.decoding(), n_resamples=200)

beside = pd.concat(rows, names=["model"]).reset_index("model")
beside = beside[beside["label"].isin(["lock", "fork"]) & beside["statistic"].isin(told)]
beside = beside.set_index(["label", "statistic", "model"]).sort_index()
beside = beside[["difference", "low", "high"]]
beside.unstack("model")["difference"]

# %%
for label, statistic in (("lock", "tail_mass"), ("fork", "head_entropy")):
    part = beside.loc[label, statistic]
    ends = [
        f"{name} {row['difference']:+.2g} [{row['low']:+.2g}, {row['high']:+.2g}]"
        for name, row in part.iterrows()
    ]
    say(f"{label}s, {statistic.replace('_', ' ')}: {'; '.join(ends)}.")
