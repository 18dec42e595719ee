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
# # Forks, locks and open positions
#
# Which positions are which, by whose rule, and is the rule right? Reads a run, as notebook 01
# does (`SSD_PROBE_RUN`, by default that of `ssd-probe demo`).

# %%
import os
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd

from ssd_probe import Decoding, Run, explore
from ssd_probe.analysis.branching.premise import by_probability, by_rank
from ssd_probe.analysis.examples.chosen import example_text
from ssd_probe.analysis.frames import stats_of
from ssd_probe.analysis.labels import EntropyRule, QuantileRule, SupportRule
from ssd_probe.analysis.scoring import agreement, score_against_truth, sensitivity
from ssd_probe.commands.branching.stage import Branched
from ssd_probe.commands.branching.summary import labelled, rule_scores
from ssd_probe.figures.branching import fig_branch_probability, fig_branch_ranks
from ssd_probe.figures.distributions import fig_4
from ssd_probe.figures.style import paper_style

# %load_ext ssd_probe


def say(sentence: str) -> None:
    """On lines that fit a page."""
    print(textwrap.fill(sentence, 100))


run = Run.load(os.environ.get("SSD_PROBE_RUN", "../runs/demo"))
base = run.frame("base")
say(f"{len(base):,} positions of {run.about()}, under {run.summary['model']}.")

# %% [markdown]
# ## A rule
# The paper gives no thresholds. Its mechanism is what temperature, top-k and top-p leave of a
# distribution: one token at a lock, several at a fork. `SupportRule` measures the *branching* of
# what is left, exp(entropy): 1 for one token, 2 for two equal ones. At most 1.25 is a lock, at
# least 1.5 a fork. Where six tokens hold less than half of the mass there is no head at all: such
# a position is *open*, as for the next word of a docstring. The paper does not name that kind.

# %%
rule = SupportRule()
rule.decoding

# %%
labels = rule.label(base)
labels

# %%
shares = labels.value_counts(normalize=True)
counted = ", ".join(f"{share:.1%} {kind}" for kind, share in shares.items())
say(f"By this rule: {counted}.")
if shares.get("fork", 0) > 0.4:
    say("So many forks are the rule's hot decoding as much as the model: several tokens would be")
    say("drawn there, which is not to say that several are right.")

# %% [markdown]
# ## In place
# A typical text: forks are outlined, stronger with more branching; locks are shaded; open
# positions have a dashed outline.

# %%
text = example_text(base, labels, rule.decoding)
with paper_style():
    fig_4(text.head(160))

# %%
shown = text.head(160)
widest = shown.loc[shown["branching"].idxmax()]
say(
    f"Of the {len(shown)} tokens {sum(shown['label'] == 'fork')} are forks; most tokens compete "
    f"before {widest['token']!r}, where {widest['branching']:.1f} equal ones would do the same."
)

# %% [markdown]
# Every text, live: click a token for its leading tokens, press `f` for the next fork.

# %%
explore(run.probe("base"))

# %% [markdown]
# ## Three kinds from near by
# The leading tokens at a position of each kind, the one of median entropy.


# %%
def typical(kind: str) -> pd.DataFrame:
    """Where it is, and what the model expects there."""
    rows = base[(labels == kind) & base["valid"]].sort_values("entropy")
    row = rows.iloc[[(len(rows) - 1) // 2]]
    stats = stats_of(row)
    return pd.DataFrame(
        {
            "kind": kind,
            "token that stands there": row["token"].map(repr),
            "entropy": row["entropy"],
            "first five": [np.round(stats.top_probs()[0, :5].numpy(), 4).tolist()],
            "mass of six": 1 - float(stats.tail_probability(6)[0]),
        }
    )


there = [kind for kind in ("lock", "fork", "open") if (labels == kind).any()]
pd.concat([typical(kind) for kind in there], ignore_index=True)

# %%
missing = sorted({"lock", "fork", "open"} - set(there))
say(
    f"None here: {', '.join(missing)}. In the bundled domain no position is open."
    if missing
    else "All three kinds are there. An open position has no head: many tokens, none likely."
)

# %% [markdown]
# ## Other rules
# `EntropyRule` takes the entropy of the whole distribution, `QuantileRule` the highest fifth of
# it, whatever its size. How far do they agree? kappa is 1 for full agreement, 0 for that of
# chance.

# %%
rules = {"support": rule, "entropy": EntropyRule(), "quantile": QuantileRule()}
agreed = agreement({name: each.label(base) for name, each in rules.items()})
agreed.round(3)

# %%
worst = agreed.loc[agreed["kappa"].idxmin()]
say(
    f"The rules {worst['first']} and {worst['second']} agree least: on {worst['agree']:.1%} of the "
    f"positions, kappa {worst['kappa']:.2f}; {worst['fork_overlap']:.0%} of what either calls a "
    "fork is one to both."
)

# %% [markdown]
# And how much hangs on the rule's own settings? A hotter decoding makes more forks.

# %%
hotter = [Decoding(t, top_k=20, top_p=0.8) for t in (0.7, 1.0, 1.3, 1.6, 2.0)]
swept = sensitivity(base, rule, {"decoding": hotter, "fork_at_least": [1.3, 1.5, 2.0, 3.0]})
swept.round(3)

# %%
by_heat = swept[swept["parameter"] == "decoding"]
say(
    f"From T={hotter[0].temperature:g} to T={hotter[-1].temperature:g} the share of forks goes "
    f"from {by_heat['fork_rate'].iloc[0]:.1%} to {by_heat['fork_rate'].iloc[-1]:.1%}: labels of "
    "different decodings must not be compared."
)

# %% [markdown]
# ## Is the rule right?
# Where the truth is known, as in the bundled domain, it can be asked. F1 of 1 is a perfect rule.

# %%
if "truth" in base:
    scores = score_against_truth(labels, base["truth"], rule.score(base))
    for row in scores.to_dict("records"):
        say(f"True {row['label']}s: F1 {row['f1']:.3f}, AUC {row['auc']:.3f}.")
else:
    say("Nobody knows the true forks of this text. So: ask the outcomes.")

# %% [markdown]
# ## Forks by intervention
# `ssd-probe branch` takes programs that pass, forces another token at a position, lets the model
# go on, and runs the tests. A lock is a position where only one token keeps the program; at a
# fork two or more do. Below are this run's forced tokens if it has some, else those of a real
# model, SmolLM2-135M-Instruct, which lie in `docs/data`.

# %%
branched = run.branched()
whose = "this run"
if branched is None:
    data, whose = Path("../docs/data"), "SmolLM2-135M-Instruct (docs/data)"
    tables = [data / "branch-smollm2.parquet", data / "branch-smollm2-positions.parquet"]
    branched = Branched(*map(pd.read_parquet, tables))
outcomes = branched.positions["outcome"].value_counts()
say(
    f"Of {whose}: {branched.branches['runs'].sum():,} runs at {len(branched.positions)} positions "
    f"of {branched.positions['sample_id'].nunique()} programs. "
    + ", ".join(f"{count} {kind}" for kind, count in outcomes.items())
    + "."
)

# %% [markdown]
# Do unlikely tokens break programs? The pass rate by the probability that the model gave the
# forced token, with 95 % bootstrap intervals over problems.

# %%
forced = labelled(branched)
premise = by_probability(forced)
with paper_style():
    fig_branch_probability(premise)

# %%
every = premise[premise["label"] == "all"]
low, high = every.iloc[0], every.iloc[-1]
say(
    f"Forced tokens of a probability below {low['below']:g} pass in {low['estimate']:.2f} of the "
    f"runs [{low['low']:.2f}, {low['high']:.2f}], those of {high['least']:g} to {high['below']:g} "
    f"in {high['estimate']:.2f} [{high['low']:.2f}, {high['high']:.2f}]. The first "
    "is how often the model recovers from a token that it held to be all but impossible."
)

# %% [markdown]
# If the rule told outcomes, the second and third token would pass more often at its forks than at
# its locks.

# %%
with paper_style():
    fig_branch_ranks(by_rank(forced))

# %%
decided = branched.positions[branched.positions["outcome"].isin(["lock", "fork"])]
for row in rule_scores(decided):
    known = f"AUC {row['auc']:.2f}" if np.isfinite(row["auc"]) else "AUC not known: one kind only"
    say(f"The rule against {len(decided)} decided outcomes, {row['label']}s: {known}.")
say(
    "An AUC of 0.5 is chance: a rule that is right where the truth is built in need not tell what "
    "becomes of a real model's programs. Labels say where several tokens would be drawn."
)
