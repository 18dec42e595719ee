"""The viewer's maths in JavaScript, run by node, against Python's at the same positions."""

import dataclasses
import itertools
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import ssd_probe.views
from ssd_probe.analysis import labels
from ssd_probe.analysis.frames import stats_of
from ssd_probe.analysis.labels import SupportRule
from ssd_probe.decoding import Decoding
from ssd_probe.kernels.pair import pair_stats
from ssd_probe.kernels.supports.rules import MinP, by_logits
from ssd_probe.views.blocks import Text, pack
from tests.probes import probe_of, random_logits

WEB = Path(ssd_probe.views.__file__).parent / "web"
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="no node (Debian: nodejs) on this machine")
RANKS, VOCABULARY = 20, 150

# Reads blocks and settings, writes a JSON line of results a block: the driver of these tests.
DRIVER = """
import { readFileSync } from "node:fs";
import { decode } from "%(web)s/block.js";
import * as maths from "%(web)s/math.js";
const { blocks, decodings, rules, vocabulary } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const finite = (x) => (Number.isFinite(x) ? x : x > 0 ? "inf" : null);
for (const path of blocks) {
  const block = decode(new Uint8Array(readFileSync(path)), vocabulary);
  const found = { decodings: [], change: [] };
  decodings.forEach((d, i) => {
    const of = { size: [], entropy: [], mass: [], exact: [], label: [], most: [],
                 most_entropy: [] };
    const all = maths.measure(block.base, d, rules[i] ?? rules[0]);
    for (let row = 0; row < block.rows; row++) {
      const out = maths.support(block.base, row, d, {});
      of.size.push(all.size[row]);
      of.entropy.push(finite(all.entropy[row]));
      of.mass.push(finite(all.mass[row]));
      of.exact.push(Boolean(all.exact[row]));
      of.label.push(all.label[row]);
      of.most.push(finite(out.most.size));
      of.most_entropy.push(finite(out.most.entropy));
    }
    found.decodings.push(of);
  });
  if (block.other)
    for (let row = 0; row < block.rows; row++)
      found.change.push(finite(maths.change(block.base, block.other, row)));
  console.log(JSON.stringify(found));
}
"""


def text_frame(logits: np.ndarray, ranks: int = 64) -> pd.DataFrame:
    """A probe frame of one text."""
    frame = probe_of(logits, ranks=ranks)
    return frame.assign(
        sample_id="s", position=np.arange(len(frame)), token="x", segment="code", syntax="Name",
        logprob=np.float32(-1), rank=1,
    )  # fmt: skip


def in_node(tmp_path: Path, blocks: list[bytes], decodings: list[dict], rules: list[SupportRule],
            vocabulary: int = VOCABULARY) -> list[dict]:  # fmt: skip
    paths = [tmp_path / f"{i}.block" for i in range(len(blocks))]
    for path, block in zip(paths, blocks, strict=True):
        path.write_bytes(block)
    asked = {
        "blocks": [str(path) for path in paths], "decodings": decodings, "vocabulary": vocabulary,
        "rules": [parameters(rule) for rule in rules],
    }  # fmt: skip
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    (tmp_path / "driver.mjs").write_text(DRIVER % {"web": WEB.as_uri()})
    run = subprocess.run([str(NODE), tmp_path / "driver.mjs", tmp_path / "asked.json"],
                         capture_output=True, text=True)  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


def parameters(rule: SupportRule) -> dict:
    return {f.name: getattr(rule, f.name) for f in dataclasses.fields(rule) if f.name != "decoding"}


def as_js(decoding: Decoding, min_p: float = 0.0) -> dict:
    return {"temperature": decoding.temperature, "topK": decoding.top_k, "topP": decoding.top_p,
            "minP": min_p}  # fmt: skip


def adversarial(vocab: int = VOCABULARY) -> np.ndarray:
    """Ties at and around the ranks' end, -inf, one hot, flat, huge and tiny differences."""
    rng = np.random.default_rng(5)
    rows = [np.zeros(vocab), np.full(vocab, -np.inf), np.arange(vocab) * 1e-6]
    rows[1][7] = 3.0  # one finite token
    for ties in (2, 19, 20, 21, 40):
        row = rng.normal(size=vocab) - 30
        row[:ties] = 2.0
        rows.append(row)
    for finite in (1, 5, 19, 20, 21):
        row = np.full(vocab, -np.inf)
        row[:finite] = rng.normal(size=finite)
        rows.append(row)
    one_hot = np.full(vocab, -1e4)
    one_hot[3] = 1e4
    halves = np.full(vocab, -np.inf)
    halves[:3] = np.log([0.5, 0.3, 0.2])
    quarters = np.full(vocab, -60.0)
    quarters[:4] = 0
    bad = np.zeros(vocab)
    bad[2] = np.nan
    return np.stack([*rows, one_hot, halves, quarters, bad, rng.integers(0, 3, vocab) / 2.0,
                     *(rng.normal(size=(8, vocab)) * 1e-3)])  # fmt: skip


def truth(logits: np.ndarray, decoding: Decoding, min_p: float) -> tuple[np.ndarray, np.ndarray]:
    """Size and entropy of the support over the whole vocabulary, by `Decoding.warp`, then min-p."""
    z = torch.tensor(logits, dtype=torch.float32)
    warped = decoding.warp(z).double()
    if min_p and not decoding.is_greedy:
        warped = warped.masked_fill(warped < warped.amax(-1, keepdim=True) + np.log(min_p), -np.inf)
    log_q = warped.log_softmax(-1)
    entropy = -(log_q.exp() * log_q.masked_fill(warped == -torch.inf, 0)).sum(-1)
    return (warped > -torch.inf).sum(-1).numpy(), entropy.numpy()


DECODINGS = [
    *(Decoding(t, k, p) for t, k, p in itertools.product(
        (0.3, 0.7, 1.0, 1.6, 3.0), (0, 1, 5, 20), (0.8, 1.0))),
    Decoding(0.0), Decoding(1.6, 20, 0.5), Decoding(1.0, 0, 0.3), Decoding(1.0, 0, 0.999),
    Decoding(1.0, 19, 0.95), Decoding(1.0, 30, 0.9), Decoding(2.0, 1000, 1.0),
    Decoding(1.0, 2, 0.5), Decoding(50.0, 20, 0.8), Decoding(0.9, 0, 0.8),
]  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> tuple[np.ndarray, pd.DataFrame, list[dict]]:
    """10,000 positions, sharp to flat and adversarial, under 50 decodings."""
    hard = adversarial()
    logits = np.concatenate([random_logits(10_000 - len(hard), VOCABULARY), hard])
    frame = text_frame(logits)
    rules = [SupportRule()]
    (answer,) = in_node(tmp_path_factory.mktemp("math"), [pack(Text("s", "p", frame, None), RANKS)],
                        [as_js(d) for d in DECODINGS], rules)  # fmt: skip
    return logits, frame, answer["decodings"]


def test_supports_are_those_of_python_at_ten_thousand_positions_and_fifty_decodings(found):
    logits, frame, answers = found
    known, stats = stats_of(frame), stats_of(probe_of(logits, ranks=RANKS))
    assert len(DECODINGS) == 50 and len(stats) == 10_000
    for decoding, answer in zip(DECODINGS, answers, strict=True):
        exact = stats.support_exact(decoding).numpy()
        if 0 < decoding.top_k <= RANKS:  # the probe's 64 ranks say whether a tie ends at rank 20
            edge = known.top_logits[:, decoding.top_k - 1]
            exact = (known.support_exact(decoding) & (known.top_logits[:, RANKS] < edge)).numpy()
        assert exact.mean() > 0.95 or decoding.top_k not in (1, 5, 19, 20), decoding
        said = np.array(answer["exact"])
        assert (said | ~exact).all(), decoding  # what Python decides is decided here
        size = np.array(answer["size"])
        assert (size[exact] == stats.support_size(decoding).numpy()[exact]).all(), decoding
        entropy = np.array(answer["entropy"], float)
        wanted = stats.support_entropy(decoding).numpy()
        assert np.abs(entropy - wanted)[exact].max(initial=0) < 1e-5
        mass = np.array(answer["mass"], float)
        assert np.abs(mass - stats.kept_mass(decoding).numpy())[exact].max(initial=0) < 1e-5


def test_bounds_hold_against_the_whole_vocabulary(found):
    logits, frame, answers = found
    some = np.r_[0:9_000:9, 9_000 : len(frame)]  # the hard ones are last
    valid = frame["valid"].to_numpy()[some]
    open_ended = 0
    for decoding, answer in zip(DECODINGS, answers, strict=True):
        sizes, entropies = truth(logits[some], decoding, 0)
        told = {name: np.array(answer[name], float)[some] for name in answer if name != "label"}
        said = (told["exact"] == 1) & valid
        if decoding.truncates:  # else the size is that of the vocabulary, and nobody asks
            assert (told["size"] <= sizes)[valid].all(), decoding
            assert (sizes <= told["most"])[valid].all(), decoding
            assert (told["size"] == sizes)[said].all(), decoding
        assert (told["entropy"] <= entropies + 1e-5)[valid].all(), decoding
        assert (entropies <= told["most_entropy"] + 1e-5)[valid].all(), decoding
        assert np.abs(told["entropy"] - entropies)[said].max(initial=0) < 1e-5, decoding
        open_ended += int(np.isinf(told["most"][valid]).sum())
    assert open_ended > 1000
    assert not told["exact"][~valid].any() and not valid.all()


def test_labels_are_those_of_the_support_rule(tmp_path):
    logits = np.concatenate([random_logits(1_000, VOCABULARY), adversarial()[-10:]])
    rules = [SupportRule(), SupportRule(Decoding(1.0, 10, 0.9), 1.1, 2.5)]
    kinds = {"lock", "fork", "neither"}
    if hasattr(labels, "OPEN"):
        rules.append(dataclasses.replace(rules[0], head_mass=0.9))
        kinds.add("open")
    (answer,) = in_node(tmp_path, [pack(Text("s", "p", text_frame(logits), None), RANKS)],
                        [as_js(rule.decoding) for rule in rules], rules)  # fmt: skip
    for rule, told in zip(rules, answer["decodings"], strict=True):
        assert told["label"] == rule.label(text_frame(logits)).tolist()
        assert set(told["label"]) <= kinds and {"lock", "fork", "neither"} <= set(told["label"])


def test_min_p_comes_last_and_is_that_of_the_rules(tmp_path):
    logits = np.concatenate([random_logits(500, VOCABULARY), adversarial()])
    asked = [(Decoding(), 0.05), (Decoding(1.6), 0.3), (Decoding(1.6, 20, 0.8), 0.2),
             (Decoding(0.7, 0, 0.9), 0.01), (Decoding(1, 0, 0.5), 1.0)]  # fmt: skip
    (answer,) = in_node(tmp_path, [pack(Text("s", "p", text_frame(logits), None), RANKS)],
                        [as_js(*each) for each in asked], [SupportRule()])  # fmt: skip
    valid = probe_of(logits)["valid"].to_numpy()
    for (decoding, min_p), told in zip(asked, answer["decodings"], strict=True):
        sizes, entropies = truth(logits, decoding, min_p)
        exact = np.array(told["exact"]) & valid
        assert (np.array(told["size"]) == sizes)[exact].all(), (decoding, min_p)
        assert (np.array(told["size"]) <= sizes)[valid].all()
        assert (sizes <= np.array(told["most"], float))[valid].all()
        assert np.abs(np.array(told["entropy"], float) - entropies)[exact].max() < 1e-5
    alone = by_logits(torch.tensor(logits / 1.6).float(), [MinP(0.3)]).size[:, 0].numpy()
    exact = np.array(answer["decodings"][1]["exact"]) & valid
    assert (np.array(answer["decodings"][1]["size"]) == alone)[exact].all() and exact.sum() > 300


def test_change_is_at_most_the_total_variation_and_is_it_where_ranks_are_all(tmp_path):
    base = np.concatenate([random_logits(200, 30), random_logits(200, 15, seed=3).repeat(2, 1)])
    other = base + np.random.default_rng(2).normal(size=base.shape)
    text = Text("s", "p", text_frame(base, ranks=20), text_frame(other, ranks=20))
    whole = Text("s", "p", text_frame(base, ranks=30), text_frame(other, ranks=30))
    some, every = in_node(tmp_path, [pack(text, 20), pack(whole, 30)], [], [SupportRule()])
    tv = pair_stats(torch.tensor(base).float(), torch.tensor(other).float()).tv.numpy()
    assert np.abs(np.array(every["change"]) - tv).max() < 1e-5
    bound = np.array(some["change"])
    assert (bound <= tv + 1e-6).all() and np.median(bound / tv) > 0.9
