"""Sampling with a policy: the right distribution through the whole loop, records, refusals."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from ssd_probe.analysis.sweeps.table import check_sweep
from ssd_probe.commands import sweep as sweeps
from ssd_probe.commands.grid import read_grid
from ssd_probe.commands.sample import sample_stage
from ssd_probe.core.config import SampleConfig
from ssd_probe.core.drawing import draw
from ssd_probe.core.requests import Request
from ssd_probe.decoding import Decoding
from ssd_probe.errors import UserError
from ssd_probe.execution import sandbox
from ssd_probe.files.reading import read_jsonl
from ssd_probe.files.record import read_record
from ssd_probe.models.checkpoints import load_model, load_tokenizer
from ssd_probe.models.tokens import render_prompt
from ssd_probe.policies.lines import LineStarts
from ssd_probe.policies.parsing import policy_of
from ssd_probe.policies.rivals import AdapT
from ssd_probe.problems.prompts import read_prompts
from tests.models import tiny_tokenizer
from tests.test_policies import EVERY

ROOT = Path(__file__).parents[1]
DRAWS = 600
PROGRAM = "def solve(xs):\n    xs = [abs(x) for x in xs]\n"
GRID = """
checkpoints:
  base: {model: tiny}
  rival: {model: tiny, policy: "two-stage(T_train=1.6)", decoding: {temperature: 1.2}}
decoding: {temperature: 1.3, top_k: 20, top_p: 0.8}
problems: tiny:dev
n: 1
limit: 2
max_new_tokens: 64
"""


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny"), load_tokenizer("tiny")


@pytest.fixture(scope="module")
def places(tiny):
    """Ids before the most open token at a line's start and elsewhere, and the logits there."""
    model, tokenizer = tiny
    prompt = render_prompt(tokenizer, read_prompts("tiny:dev", 1)[0])
    ids = prompt + tokenizer.encode(PROGRAM, add_special_tokens=False)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    found = {}
    for start in (True, False):
        here = [i for i in range(len(prompt), len(ids)) if begins(tokenizer, ids[: i + 1]) == start]
        p = logits[here].double().softmax(-1)
        best = here[int(-(p * p.clamp(min=1e-300).log()).sum(-1).argmin())]
        found[start] = ids[: best + 1], logits[best]
    return found


def begins(tokenizer, ids):
    return not tokenizer.decode(ids).rpartition("\n")[2].strip()


@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("text", EVERY)
def test_draws_are_of_the_policy(tiny, places, text, start):
    ids, logits = places[start]
    policy = policy_of(text, Decoding(1.5, 12))
    if isinstance(policy, AdapT):
        policy = AdapT(4.0, decoding=Decoding(1.5, 12))
        left = policy.candidates(logits[None], torch.tensor([start]))[1][0]
        expected = left.double().softmax(-1)
    else:
        expected = policy.probabilities(logits)
    requests = [Request("p", i, ids, 1) for i in range(DRAWS)]
    drawn = draw(*tiny, requests, policy, batch_size=200, progress=False)
    counts = Counter(new[0] for new in drawn)
    alive = expected > 0
    assert sum(counts.values()) == DRAWS and all(alive[token] for token in counts)
    observed = np.array([counts[token] for token in alive.nonzero()[:, 0].tolist()])
    # A right sampler fails at this level once in a million seeds; this one is fixed.
    assert len(observed) == 1 or chisquare(observed, expected[alive] * DRAWS).pvalue > 1e-6


def test_the_chi_square_would_see_another_policy(tiny, places):
    """The same draws against a neighbour's distribution: the test above can fail."""
    ids, logits = places[False]
    requests = [Request("p", i, ids, 1) for i in range(DRAWS)]
    drawn = draw(*tiny, requests, Decoding(1.5, 12), batch_size=200, progress=False)
    counts = Counter(new[0] for new in drawn)
    expected = Decoding(0.8, 12).probabilities(logits)
    observed = np.array([counts[token] for token in expected.nonzero()[:, 0].tolist()])
    assert chisquare(observed, expected[expected > 0] * DRAWS).pvalue < 1e-6


def test_where_lines_begin():
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode("a\n\n   b = [\n        1, 2]  \n\tif c:\n x")
    starts = LineStarts(tokenizer)
    found = [bool(starts(torch.tensor([ids[:i]]))[0]) for i in range(1, len(ids) + 1)]
    assert found == [begins(tokenizer, ids[:i]) for i in range(1, len(ids) + 1)]
    assert 5 < sum(found) < len(found) - 5
    assert starts(torch.tensor([ids[:1] * 2, ids[:2]])).tolist() == found[:1] + found[1:2]


def test_a_policy_is_recorded_and_another_refused(tmp_path):
    out, config = tmp_path / "s.jsonl", SampleConfig(max_new_tokens=24)
    sampled = {"out": out, "config": config, "limit": 2}
    rows = sample_stage("tiny", "tiny:dev", policy_of("min-p(0.1)", Decoding(1.3)), **sampled)
    assert [row["policy"] for row in read_jsonl(out)] == ["min-p(min_p=0.1)"] * 2
    settings = read_record(tmp_path / "s.jsonl.run.json")["settings"]["decoding"]
    assert settings == policy_of("min-p(0.1)", Decoding(1.3)).to_dict()
    assert (
        sample_stage("tiny", "tiny:dev", policy_of("min-p(0.1)", Decoding(1.3)), **sampled) == rows
    )
    with pytest.raises(UserError, match=r"decoding.policy: min-p\(min_p=0.1\) -> min-p\(min_p=0.2"):
        sample_stage("tiny", "tiny:dev", policy_of("min-p(0.2)", Decoding(1.3)), **sampled)
    with pytest.raises(UserError, match="decoding.order: .* rule -> temperature, top_k, top_p;"):
        sample_stage("tiny", "tiny:dev", Decoding(1.3), **sampled)
    plain = {**sampled, "out": tmp_path / "plain.jsonl"}
    assert "policy" not in sample_stage("tiny", "tiny:dev", Decoding(1.3), **plain)[0]


@pytest.mark.parametrize(("name", "rivals"), [("dev", 7), ("test", 4)])
def test_the_grids_of_the_results_are_read(name, rivals):
    grid = read_grid(ROOT / f"docs/data/rivals-{name}.yaml")
    policies = [each for each in grid.checkpoints if each.policy]
    assert len(policies) == rivals and {each.model for each in policies} == {"tiny"}
    assert all(each.at for each in grid.checkpoints)
    plain = {each.name for each in grid.checkpoints} - {each.name for each in policies}
    assert plain == (set() if name == "dev" else {"base", "ssd", "control"})


def test_a_sweep_has_rivals_beside_the_base(tmp_path):
    (tmp_path / "grid.yaml").write_text(GRID)
    grid = read_grid(tmp_path / "grid.yaml")
    rival = grid.checkpoints[1]
    assert rival.policy == "two-stage(T_train=1.6, top_k=20, top_p=0.8)"
    assert rival.at == (Decoding(1.2),) and len(grid.cells()) == 2
    unsandboxed = sandbox.obstacle() is not None
    table = sweeps.sweep_stage(grid, tmp_path / "out", unsandboxed=unsandboxed)
    assert set(table.loc[table["model"] == "rival", "policy"]) == {rival.policy}
    assert table.loc[table["model"] == "base", "policy"].isna().all()
    samples = read_jsonl(tmp_path / "out/samples/rival/T1.2-k0-p1.0.jsonl")
    assert samples[0]["policy"] == rival.policy
    checked = check_sweep(table)
    assert checked.groupby("model")["policy"].unique().str[0].to_dict() == {
        "base": "", "rival": rival.policy,
    }  # fmt: skip
    with pytest.raises(UserError, match="only rows with a policy"):
        check_sweep(table[table["model"] == "rival"])
    (tmp_path / "grid.yaml").write_text(GRID.replace("T_train=1.6", "T_train=1.5"))
    with pytest.raises(UserError, match="policy: two-stage.T_train=1.6.* -> two-stage.T_train=1.5"):
        sweeps.sweep_stage(read_grid(tmp_path / "grid.yaml"), tmp_path / "out",
                           unsandboxed=unsandboxed)  # fmt: skip


@pytest.mark.parametrize(("old", "new", "says"), [
    ('"two-stage(T_train=1.6)"', "nucleus", "checkpoints.rival: policy 'nucleus': must be NAME"),
    ("decoding: {temperature: 1.2}", "decoding: {T: 1}", "checkpoints.rival.decoding: unknown key"),
    ("decoding: {temperature: 1.2}", "top_k: 5", "checkpoints.rival: top_k and top_p need T_train"),
])  # fmt: skip
def test_a_grid_says_what_is_wrong_of_a_rival(tmp_path, old, new, says):
    (tmp_path / "grid.yaml").write_text(GRID.replace(old, new))
    with pytest.raises(UserError, match=says):
        read_grid(tmp_path / "grid.yaml")
