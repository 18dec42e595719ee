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
# # Your own model, end to end
#
# A real checkpoint through all steps, at small sizes: sample a few answers, probe a
# text, label, look, train a little, compare. `SSD_PROBE_MODEL` names the model: a checkpoint
# folder, a hub id, `smollm2` or `tiny`. Without it: SmolLM2-135M if it is on this machine
# (`ssd-probe fetch smollm2` brings it), else the bundled checkpoint.

# %%
import contextlib
import io
import os
import tempfile
import textwrap
import time
from pathlib import Path

from ssd_probe import Decoding, Probe, explore
from ssd_probe.analysis.digest import digest
from ssd_probe.analysis.labels import SupportRule
from ssd_probe.commands.compare import paired_parts, tokenizer_of
from ssd_probe.commands.probe import probe_stage
from ssd_probe.commands.sample import sample_stage
from ssd_probe.commands.train import train_stage
from ssd_probe.core.config import SampleConfig, TrainConfig
from ssd_probe.figures.distributions import fig_5_pair
from ssd_probe.figures.style import paper_style
from ssd_probe.models.checkpoints import is_here
from ssd_probe.probing.config import ProbeConfig
from ssd_probe.views.comparison import sentences
from ssd_probe.views.readings import read_out

# %load_ext ssd_probe


def say(sentence: str) -> None:
    """On lines that fit a page."""
    print(textwrap.fill(sentence, 100))


@contextlib.contextmanager
def saying():
    """What a step says of itself on stderr, said here."""
    with contextlib.redirect_stderr(io.StringIO()) as notes:
        yield
    for note in notes.getvalue().splitlines():
        say(note)


model = os.environ.get("SSD_PROBE_MODEL") or ("smollm2" if is_here("smollm2") else "tiny")
bundled = model == "tiny"
if bundled:
    say("The bundled checkpoint stands in: its world is a toy, so its numbers are no model's.")
say(f"Model: {model}")
started = time.time()
kept = tempfile.TemporaryDirectory()
work = Path(kept.name)

# %% [markdown]
# ## 1. Sample
# One answer to each of a few prompts, hot and truncated. Nothing is filtered by correctness. The
# functions of Python's standard library are prompts that need no download; the bundled model
# knows only those of its own domain.

# %%
decoding = Decoding(1.3, top_k=20, top_p=0.8)
prompts, text = ("tiny:ssd", "tiny:dev") if bundled else ("stdlib:ssd", "stdlib:test")
config = SampleConfig(max_new_tokens=192 if bundled else 64)
count = 64 if bundled else 6
samples = sample_stage(model, prompts, decoding, work / "samples.jsonl", config, limit=count)
print(samples[0]["completion"][:400])

# %%
done = sum(row["finished"] for row in samples)
length = sum(len(row["completion_ids"]) for row in samples) / len(samples)
say(
    f"{len(samples)} answers, {length:.0f} tokens on average; {done} ended by themselves. Those "
    "that were cut teach answers that do not end: give a model of your own more room."
)

# %% [markdown]
# ## 2. Probe
# Text that neither model wrote is the fairest: library code for a language model. The bundled one
# is probed on answers of its own.

# %%
if bundled:
    own = SampleConfig(max_new_tokens=192)
    sample_stage(model, text, Decoding(0.7, 20, 0.8), work / "text.jsonl", own, limit=24)
    text = str(work / "text.jsonl")
settings = ProbeConfig(max_length=256, verify=4)
limit = 24 if bundled else 4
with saying():
    for line in probe_stage(model, [text], work / "base", settings, limit=limit):
        say(line.replace(f" in {work / 'base'}", " probed"))

# %% [markdown]
# ## 3. Label and look

# %%
base = Probe.load(work / "base")
rule = SupportRule()
labels = rule.label(base.frame)
labels

# %%
explore(base)

# %%
shares = labels.value_counts(normalize=True)
say("Of these positions " + ", ".join(f"{share:.0%} are {kind}" for kind, share in shares.items()))

# %% [markdown]
# ## 4. Train, a little
# Ordinary fine-tuning on the raw samples. A few steps are no experiment: they show what comes
# out.

# %%
recipe = TrainConfig(learning_rate=1e-3 if bundled else 5e-5, max_steps=8 if bundled else 3,
                     batch_size=16 if bundled else 2, warmup_steps=0)  # fmt: skip
with saying():
    train_stage(model, work / "samples.jsonl", recipe, work / "student")
say(f"{recipe.max_steps} steps of batches of {recipe.batch_size}.")

# %% [markdown]
# ## 5. Compare

# %%
student = str(work / "student")
with saying():
    probe_stage(student, [text], work / "tuned", ProbeConfig(max_length=256), limit=limit)
tuned = Probe.load(work / "tuned")
found = digest(
    paired_parts(base, tuned), rule, decoding,
    where=f"{len(base)} positions", tokenizer=tokenizer_of(base),
)  # fmt: skip
for sentence in sentences(found):
    say(sentence)

# %%
with paper_style():
    fig_5_pair(found.ranked)

# %%
read = read_out(found)
say(read["fig_5"])
say(read["loss_terms"])

# %% [markdown]
# ## Then
# The same with real sizes is one command on one file: `ssd-probe run loop.yaml`, or `ssd-probe
# run smollm2 --quick`. Its folder is what notebooks 01 to 05 read.

# %%
say(f"This notebook took {time.time() - started:.0f} s.")
kept.cleanup()
