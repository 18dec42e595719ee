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
# # Forks, locks and simple self-distillation: a first look
#
# This notebook reads the run that `ssd-probe demo` left (about four minutes on two cores; set
# `SSD_PROBE_RUN` to read another run, e.g. that of `ssd-probe demo --quick --out runs/quick`).
# A **lock** is a position with one right token and a tail of distractors; a **fork** is a position
# with several good tokens. Simple self-distillation (SSD) is said to cut the tail at locks and to
# keep the head at forks. Let us look.

# %%
import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from ssd_probe import Decoding
from ssd_probe.analysis.curves import cumulative_mass, stack_models, truncation_curves
from ssd_probe.analysis.labels import SupportRule
from ssd_probe.analysis.scoring import score_against_truth
from ssd_probe.commands.run_folder import labelled_probe
from ssd_probe.figures.distributions import fig_4, fig_6a, fig_6b, fig_6c
from ssd_probe.figures.style import COLUMN_WIDTH, paper_style

run = Path(os.environ.get("SSD_PROBE_RUN", "../runs/demo"))
summary = json.loads((run / "summary.json").read_text())
base, ssd = labelled_probe(run, "base"), labelled_probe(run, "ssd")
print(f"{len(base)} token positions, seen by both models")

# %% [markdown]
# ## One row a position
# The probe table holds, for the distribution *before* each token: its entropy, the log-probability
# and rank of the token that stands there, the 64 best tokens, and the log mass beyond them. The
# bundled domain knows its true forks by construction (`truth`).

# %%
base[["token", "logprob", "rank", "entropy", "varentropy", "tail_log_mass", "truth"]].head(12)

# %%
base.groupby("truth")["entropy"].describe()[["count", "mean", "50%", "max"]]

# %% [markdown]
# ## Where are the forks of one program?
# `SupportRule` labels a position by the *branching* of what truncation leaves: `exp(entropy)` of
# the tokens kept at T=1.6, top-k 20, top-p 0.8. Forks are outlined, locks shaded.

# %%
decoding = Decoding(1.6, top_k=20, top_p=0.8)
rule = SupportRule(decoding)
hard = base[base["problem_id"].str.startswith("hard")]
program = hard[hard["sample_id"] == hard["sample_id"].iloc[0]].query("segment != 'special'")
marked = pd.DataFrame(
    {"token": program["token"], "label": rule.label(program), "branching": rule.score(program)}
)
with paper_style():
    fig_4(marked)

# %% [markdown]
# Does the rule find the true ones?

# %%
score_against_truth(rule.label(base), base["truth"], rule.score(base))

# %% [markdown]
# ## What did SSD change?
# The tail at locks, the head at forks; the difference with a 95 % bootstrap interval over problems.

# %%
comparison = pd.DataFrame(summary["comparison"])
comparison[comparison["label"].isin(["lock", "fork"])].drop(columns=["problems", "missing"])

# %% [markdown]
# ## Move T_eval
# At a low evaluation temperature both models are safe at locks and blind at forks. Raise it: at
# which temperature does the *base* let distractors back in, and where does the SSD model?


# %%
def survivors(temperature: float) -> pd.DataFrame:
    """Mean tokens that survive truncation at true locks and forks."""
    rows = {}
    for name, frame in {"base": base, "SSD": ssd}.items():
        for kind in ("lock", "fork"):
            curve = truncation_curves(frame[frame["truth"] == kind], [temperature])
            rows[name, kind] = curve["survivors"].item()
    return pd.Series(rows).unstack()


def show(temperature: float = 1.6) -> None:
    print(survivors(temperature).round(3))


try:
    from ipywidgets import FloatSlider, interact

    interact(show, temperature=FloatSlider(min=0.4, max=2.6, step=0.1, value=1.6))
except ImportError:
    show()

# %%
pd.concat({t: survivors(t) for t in (1.0, 1.6, 2.0, 2.4)}, names=["T_eval"]).round(3)

# %% [markdown]
# ## Figure 6
# **6a**: how many nines of mass the first ranks hold. **6b, 6c**: how many tokens survive
# truncation, and how much entropy is left, as T_eval rises.

# %%
probes = {"base": base, "ssd": ssd}
with paper_style():
    fig_6a(stack_models({name: cumulative_mass(frame) for name, frame in probes.items()}))
    curves = stack_models({name: truncation_curves(frame) for name, frame in probes.items()})
    _, (left, right) = plt.subplots(1, 2, figsize=(2 * COLUMN_WIDTH, 2.3))
    fig_6b(curves, left)
    fig_6c(curves, right)

# %% [markdown]
# ## And the programs?
# pass@1 and pass@5 on held-out problems, each model at the T_eval that was best for it on a
# development split; `estimate` is the difference to the base.

# %%
pd.DataFrame(summary["differences"])
