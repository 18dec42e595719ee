"""Branching: what is forced, what the outcomes say, killed and gone on with, grown, refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ssd_probe.analysis.branching.choosing import choose_positions, choose_tokens
from ssd_probe.analysis.branching.outcomes import branches, outcomes
from ssd_probe.analysis.branching.premise import by_probability, by_rank
from ssd_probe.analysis.frames import stats_of
from ssd_probe.analysis.labels import EntropyRule, SupportRule
from ssd_probe.analysis.scoring import Rated, score_against_outcomes
from ssd_probe.commands.branching.config import BranchConfig
from ssd_probe.commands.branching.programs import (
    program_identity,
    read_program,
    running_spans,
)
from ssd_probe.commands.branching.runs import Limits, _answer, judged, requests_of
from ssd_probe.commands.branching.stage import BRANCHES, DRAWS, POSITIONS, branch_stage
from ssd_probe.errors import UserError
from ssd_probe.execution import sandbox
from ssd_probe.figures.branching import fig_branch_probability, fig_branch_ranks
from ssd_probe.files.writing import write_jsonl
from ssd_probe.models.checkpoints import load_tokenizer
from ssd_probe.models.identity import Checkpoint
from ssd_probe.models.tokens import continuation_ids, render_prompt, text_ids
from ssd_probe.problems.prompts import read_prompts
from ssd_probe.problems.tasks import Task, load_tasks
from ssd_probe.problems.texts import read_texts
from ssd_probe.tiny import domain
from ssd_probe.tiny.truth import program_rows, true_labels
from tests.models import save, tiny_tokenizer
from tests.probes import probe_of, random_logits

LIMITS = Limits(workers=1, unsandboxed=sandbox.obstacle() is not None)
TASK = Task("p", kind="check", entry="f", prefix='def f(x):\n    """Doc."""\n', check="")
ANSWER = '''Sure:
```python
import math
def f(x):
    """Doc."""
    # why
    return x + 1

print(f(1))
```
Done.'''


def table(rows) -> pd.DataFrame:
    """Branches from (position, probability, forced, original, passes, runs)."""
    columns = ["position", "probability", "forced", "original", "passes", "runs"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(
        sample_id="s", problem_id="p", token_id=range(len(frame)), same_program=frame["passes"] // 2
    )


def test_positions_come_from_every_stratum_and_more_of_them_keep_the_first():
    frame = probe_of(random_logits(n=400)).assign(entropy=np.linspace(0, 2, 400) ** 3 / 4)
    few, many = (choose_positions(frame, n, edges=(0.1, 1.0), seed=3) for n in (30, 60))
    assert few["stratum"].value_counts().tolist() == [10, 10, 10]
    assert few["weight"].sum() == pytest.approx(400)
    keys = [set(zip(each["sample_id"], each["position"], strict=True)) for each in (few, many)]
    assert len(keys[1]) == 60 and keys[0] < keys[1]
    assert len(choose_positions(frame, 10_000)) == 400


def test_the_original_is_always_forced_and_the_tail_is_unlikely():
    frame = probe_of(random_logits(n=20))
    frame["token_id"] = [ids[6] for ids in frame["top_ids"]]  # rank 7, no leading one
    frame["logprob"], frame["rank"] = np.log(stats_of(frame).top_probs()[:, 6].numpy()), 7
    chosen = choose_tokens(frame, leading=2, tail=3, seed=1)
    by_place = chosen.groupby(["sample_id", "position"])
    assert (by_place["original"].sum() == 1).all()
    assert not chosen.duplicated(["sample_id", "position", "token_id"]).any()
    own = chosen[chosen["original"]]
    assert (own["rank"] == 7).all()
    np.testing.assert_allclose(own["probability"], np.exp(frame["logprob"]), rtol=1e-6)
    drawn = chosen[(chosen["forced"] == "tail") & ~chosen["original"]]
    assert len(drawn) and (drawn["probability"] < 0.01).all()
    assert (chosen.loc[chosen["rank"].isin([1, 2]), "forced"] == "leading").all()
    again = choose_tokens(frame.iloc[5:8], leading=2, tail=3, seed=1)
    alike = chosen.merge(again, on=["sample_id", "position", "token_id"])
    assert len(alike) == len(again)


def test_an_outcome_is_the_posterior_probability_that_no_other_token_keeps_the_program():
    found = outcomes(table([
        (1, 0.9, "leading", True, 7, 8), (1, 0.05, "leading", False, 1, 4),
        (1, 0.04, "leading", False, 2, 4), (1, 0.001, "tail", False, 4, 4),
    ]))  # fmt: skip
    rng = np.random.default_rng(0)
    r = rng.beta(7.5, 1.5, 400_000)
    below = (rng.beta(1.5, 3.5, r.shape) < 0.75 * r) & (rng.beta(2.5, 2.5, r.shape) < 0.75 * r)
    assert found["p_fork"].item() == pytest.approx(1 - below.mean(), abs=0.003)
    assert found["alternatives"].item() == 2
    assert found["same_program"].item() == pytest.approx(1 / 8)


@pytest.mark.parametrize(("rows", "expected"), [
    ([(0.5, 20, 20), (0.4, 20, 20)], "fork"),
    ([(0.9, 20, 20), (0.05, 0, 20)], "lock"),
    ([(0.9, 2, 2), (0.05, 1, 2)], "undecided"),
    ([(0.9, 4, 20), (0.05, 0, 20)], "undecided"),  # the model loses this program anyway
    ([(1.0, 20, 20)], "lock"),
])  # fmt: skip
def test_outcomes(rows, expected):
    made = table([(1, p, "leading", not i, k, n) for i, (p, k, n) in enumerate(rows)])
    assert outcomes(made)["outcome"].item() == expected
    assert outcomes(made, least_probability=0.1)["outcome"].isin([expected, "lock"]).all()


def test_outcomes_refuse_what_they_cannot_use():
    with pytest.raises(UserError, match="no runs of the original"):
        outcomes(table([(1, 0.5, "leading", False, 1, 2)]))
    with pytest.raises(UserError, match="near"):
        outcomes(table([(1, 0.5, "leading", True, 1, 2)]), near=0)


def test_pass_rates_have_wilsons_interval():
    tokens = table([(1, 0.5, "leading", True, 0, 0), (2, 0.5, "leading", True, 0, 0)])
    tokens = tokens.drop(columns=["passes", "runs", "same_program"])
    runs = pd.DataFrame({"sample_id": "s", "problem_id": "p", "position": 1, "token_id": 0,
                         "passed": [True] * 4, "same": [True, False] * 2})  # fmt: skip
    found = branches(tokens, runs)
    assert found[["runs", "passes", "same_program"]].values.tolist() == [[4, 4, 2], [0, 0, 0]]
    z = 1.959964
    assert found["low"][0] == pytest.approx(4 / (4 + z**2), abs=1e-5)  # of 4 of 4
    assert found["high"][0] == pytest.approx(1) and np.isnan(found["low"][1])


def test_the_premise_is_weighted_and_leaves_originals_out():
    made = table([
        (1, 0.9, "leading", True, 4, 4), (1, 0.005, "leading", False, 1, 4),
        (2, 0.003, "tail", False, 4, 4), (3, 0.3, "leading", False, 2, 4),
    ])  # fmt: skip
    made = made.assign(label=["lock"] * 2 + ["fork"] * 2, weight=[1, 3, 1, 1], rank=[1, 2, 9, 2])
    found = by_probability(made).set_index(["label", "least"])
    assert found.loc[("all", 0.001), "estimate"] == pytest.approx((3 * 0.25 + 1) / 4)
    assert found.loc[("fork", 0.2), "estimate"] == 0.5
    assert found["tokens"].groupby(level=0).sum().to_dict() == {"all": 3, "fork": 2, "lock": 1}
    ranks = by_rank(made).set_index(["label", "rank"])["estimate"]
    assert ranks.to_dict() == {("fork", 2): 0.5, ("fork", 6): 1, ("lock", 1): 1, ("lock", 2): 0.25}
    drawn = fig_branch_ranks(by_rank(made))
    assert {t.get_text() for t in drawn.get_xticklabels()} == {"1", "2", "> 2"}
    assert drawn.get_legend_handles_labels()[1] == ["lock (1)", "fork (1)"]
    drawn = fig_branch_probability(by_probability(made))
    heights = [list(bar.lines[0].get_ydata()) for bar in drawn.containers]
    assert heights == [[0.4375, 0.5], [0.25], [1, 0.5]]


def test_what_runs_is_the_code_up_to_its_last_function_without_words():
    spans, end = running_spans(TASK, ANSWER)
    text = "".join(ANSWER[a:b] for a, b in spans)
    assert text == "import math\ndef f(x):\n    \n    \n    return x + 1"
    assert ANSWER[end:].startswith("```\nDone.")
    body = running_spans(TASK, "    return x\n")
    assert ["    return x\n"[a:b] for a, b in body[0]] == ["    return x"]
    assert running_spans(TASK, "```python\ndef f(:\n```") is None


def test_a_program_knows_its_tokens_and_what_closes_its_fence():
    tokenizer = tiny_tokenizer()
    ids = tokenizer(ANSWER)["input_ids"]
    row = {"completion": ANSWER, "completion_ids": ids, "prompt_ids": [1]}
    program = read_program(row, TASK, tokenizer)
    text = "".join(tokenizer.decode([ids[place]]) for place in program.running)
    assert "why" not in text and "print" not in text and "return x + 1" in text
    rest = tokenizer.decode(ids[program.end :])
    assert rest.startswith("`") and rest.endswith("Done.")


def test_programs_are_the_same_whatever_their_layout_and_words():
    same = ANSWER.replace("x + 1", "(x+1)").replace("Doc.", "Other.").replace("# why", "")
    assert program_identity(TASK, same) == program_identity(TASK, ANSWER)
    assert program_identity(TASK, ANSWER.replace("+ 1", "+ 2")) != program_identity(TASK, ANSWER)
    assert program_identity(TASK, "(") != program_identity(TASK, "[")


def plain_programs(path, count: int = 30) -> list:
    """Corpus programs of problems without an edge case: every form passes, so forks are true."""
    problems = [
        each
        for each in domain.problems("test", count)
        if not any(slot.careful for slot in each.slots)
    ]
    write_jsonl(path, program_rows(load_tokenizer("tiny"), problems, 0))
    return problems


def branched(folder, samples, **settings):
    found = branch_stage("tiny", "tiny:test", samples, folder, BranchConfig(**settings),
                         limits=LIMITS)  # fmt: skip
    return found.branches


def test_a_killed_run_goes_on_grows_and_refuses_other_settings(tmp_path):
    samples = tmp_path / "samples.jsonl"
    plain_programs(samples, 12)
    whole = branched(tmp_path / "whole", samples, positions=6, per_token=2)
    assert (whole["runs"] == np.where(whole["original"], 4, 2)).all()
    cut = tmp_path / "cut"
    branched(cut, samples, positions=4, per_token=1)
    for name in (BRANCHES, POSITIONS):
        (cut / name).unlink()
    lines = (cut / DRAWS).read_text().splitlines()
    (cut / DRAWS).write_text("\n".join(lines[:9]) + '\n["torn')
    pd.testing.assert_frame_equal(branched(cut, samples, positions=6, per_token=2), whole)
    kept = [json.loads(line) for line in (cut / DRAWS).read_text().splitlines()]
    assert len({(name, index) for name, index, _ in kept}) == len(kept)
    with pytest.raises(UserError, match="leading: 3 -> 2"):
        branched(cut, samples, positions=6, leading=2)


def test_what_cannot_be_branched_is_one_line(tmp_path):
    samples = tmp_path / "samples.jsonl"
    plain_programs(samples, 12)
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    write_jsonl(samples, [row | {"completion": "def solve(xs): return None"} for row in rows])
    with pytest.raises(UserError, match="none of the .* samples passes"):
        branched(tmp_path / "out", samples)
    assert [file.name for file in (tmp_path / "out").iterdir()] == [".lock"]
    write_jsonl(samples, [{"problem_id": rows[0]["problem_id"], "completion": "x"}])
    with pytest.raises(UserError, match="no `prompt_ids`"):
        branched(tmp_path / "out", samples)  # which the refused try has not spoilt
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("")
    with pytest.raises(UserError, match="no run of `branch`"):
        branched(tmp_path / "other", samples)


@pytest.mark.slow(reason="twenty runs of each token: half a minute on a free core")
def test_the_true_forks_of_the_bundled_domain_are_found(tmp_path):
    samples = tmp_path / "samples.jsonl"
    problems = plain_programs(samples, 60)
    table = branched(tmp_path / "run", samples, positions=40, per_token=20, tail=0)
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    truth = true_labels(load_tokenizer("tiny"), problems, rows)
    found = outcomes(table, least_probability=0.01).merge(truth, on=["sample_id", "position"])
    said, true = found["outcome"] == "fork", found["truth"] == "fork"
    assert 15 <= true.sum() <= 35
    assert 2 * (said & true).sum() / (said.sum() + true.sum()) >= 0.98


DOCS = Path(__file__).parents[1] / "docs"
BINS = ("below 0.001", "0.001 to 0.01", "0.01 to 0.05", "0.05 to 0.2", "0.2 to 0.5", "above 0.5")
MEASURES = ("auc", "fork_f1", "lock_f1", "best_fork_f1", "best_lock_f1")


@pytest.fixture(scope="module")
def smollm2():
    """SmolLM2's outcomes by token and by position, and the page that tells of them."""
    stem = DOCS / "data" / "branch-smollm2"
    table, places = (pd.read_parquet(f"{stem}{end}.parquet") for end in ("", "-positions"))
    return table, places, (DOCS / "real-models.md").read_text(encoding="utf-8")


def with_ends(row, digits: int = 2) -> str:
    return f"{row.estimate:.{digits}f} [{row.low:.2f}, {row.high:.2f}]"


@pytest.mark.slow(reason="bootstraps of all that the page says")
def test_what_the_page_says_of_forced_tokens(smollm2):
    """Every number of the first table of docs/real-models.md, with its interval."""
    table, places, page = smollm2
    assert len(places) == 660 and table["runs"].sum() == 10_593
    assert places["sample_id"].nunique() == 63 and places["problem_id"].nunique() == 51
    kinds = SupportRule().label(places)
    assert kinds.value_counts().to_dict() == {"lock": 312, "fork": 310, "neither": 38}
    places = places.assign(label=kinds)
    table = table.merge(places[["sample_id", "position", "weight", "label"]])
    rates = by_probability(table)
    for name, row in zip(BINS, rates[rates["label"] == "all"].itertuples(), strict=True):
        assert f"| {name} | {with_ends(row, 3)} |" in page
    unlikely = rates[rates["least"] == 0].set_index("label")
    told = (
        f"{with_ends(unlikely.loc['lock'], 3)} at locks and {with_ends(unlikely.loc['fork'], 3)} at"
    )
    assert told in " ".join(page.split())
    own = table[table["original"]]
    kept = (own["weight"] * own["passes"] / own["runs"]).sum() / own["weight"].sum()
    assert f"gone on in the same way | {kept:.2f} |" in page
    assert outcomes(table)["outcome"].value_counts().to_dict() == {
        "lock": 132, "fork": 116, "undecided": 412,
    }  # fmt: skip


@pytest.mark.slow(reason="bootstraps of all that the page says")
@pytest.mark.parametrize(("least", "asked"), [
    (0.0, "every leading token, at least ranks 2 and 3"),
    (0.01, "those of probability 0.01 and more"),
])  # fmt: skip
def test_what_the_pages_say_of_the_rules(smollm2, least, asked):
    """AUC, F1 and the best thresholds' F1 of the rules, with intervals."""
    table, places, page = smollm2
    found = outcomes(table, least_probability=least)
    probed = places.drop(columns=found.columns.difference(["sample_id", "position"]))
    kept = probed.merge(found, on=["sample_id", "position"]).query("original_rate >= 0.5")
    assert len(kept) == 501 and kept["problem_id"].nunique() == 51
    rules = {"support": SupportRule(), "entropy": EntropyRule()}
    rated = {name: Rated(rule.score(kept), rule.label(kept)) for name, rule in rules.items()}
    for kind in ("fork", "lock"):
        rated[kind] = rated["support"]._replace(label=np.full(len(kept), kind))
    scores = score_against_outcomes(rated, kept).set_index(["rule", "measure"])
    cells = {row.Index: with_ends(row) for row in scores.itertuples()}
    for name in rules:
        line = " | ".join(cells[name, measure] for measure in MEASURES)
        assert f"| {asked} | `{name}` | {line} |" in page
    ends = f"{cells['fork', 'fork_f1']} | {cells['lock', 'lock_f1']}"
    assert f"| {asked} | all are forks; all are locks | | {ends} | | |" in page
    method = (DOCS / "method.md").read_text(encoding="utf-8")
    assert f"| {asked} | {cells['support', 'auc']} | {cells['entropy', 'auc']} |" in method


@pytest.fixture(scope="module")
def raw_samples(tmp_path_factory):
    """A random model, and raw samples of `basics` that pass: their own solutions in its tokens."""
    folder = tmp_path_factory.mktemp("raw")
    model, samples, tokenizer = (
        save(folder / "model", "llama"),
        folder / "s.jsonl",
        tiny_tokenizer(),
    )
    rows = []
    texts = {text.problem_id: text for text in read_texts("basics:dev")}
    for prompt in read_prompts("basics:dev", 3, "raw"):
        prompt_ids = render_prompt(tokenizer, prompt)
        body = texts[prompt.problem_id].completion.rstrip("\n")
        ids = continuation_ids(tokenizer, prompt_ids, body)
        rows.append({"sample_id": prompt.problem_id, "problem_id": prompt.problem_id,
                     "prompt": prompt.text, "completion": body, "prompt_ids": prompt_ids,
                     "completion_ids": ids, **prompt.meta})  # fmt: skip
    write_jsonl(samples, rows)
    return model, samples, rows


def test_raw_samples_go_on_raw(raw_samples, tmp_path):
    """Until a stop string, also where the forced token begins or ends it; judged as code alone."""
    model, _, rows = raw_samples
    checkpoint, row = Checkpoint(str(model), "cpu"), rows[0]
    tokenizer, task = checkpoint.tokenizer, load_tasks("basics:dev")[row["problem_id"]]
    program = read_program(row, task, tokenizer)
    assert (program.end, program.closing) == (len(row["completion_ids"]), None)
    assert program.running[-1] == program.end - 1
    (newline,), (letter,) = (text_ids(tokenizer, each) for each in ("\n", "#"))
    place = len(row["prompt_ids"]) + program.end
    about = {"sample_id": row["sample_id"], "problem_id": row["problem_id"], "original": False}
    forced = pd.DataFrame([about | {"position": place, "token_id": newline}])
    ((request, end),) = requests_of(checkpoint, [program], forced, 1)
    assert end is None and request.stop == tuple(row["stop"])
    assert request.ids[-request.begun :] == [*row["completion_ids"], newline]
    ending = row | {"completion_ids": [*row["completion_ids"], newline]}
    ended = replace(program, row=ending, end=program.end + 1)
    forced = pd.DataFrame([about | {"position": place + 1, "token_id": letter}])
    assert requests_of(checkpoint, [ended], forced, 1) == []
    asked = [tokenizer, [ended], forced, {}, 1, {row["problem_id"]: task}, LIMITS, tmp_path / "v"]
    runs = judged(*asked)
    assert runs["passed"].tolist() == runs["same"].tolist() == [True]
    assert (
        _answer(tokenizer, row, [*ending["completion_ids"], letter])["completion"]
        == (row["completion"])
    )


def test_a_branching_of_raw_samples(raw_samples, tmp_path):
    model, samples, rows = raw_samples
    few = BranchConfig(positions=3, per_token=1)
    found = branch_stage(str(model), "basics:dev", samples, tmp_path / "b", few, limits=LIMITS)
    assert len(found.positions) == 3 and found.branches["runs"].min() == 1
    write_jsonl(samples, [row | {"stop": ["\ndef"]} for row in rows])
    with pytest.raises(UserError, match="samples: "):
        branch_stage(str(model), "basics:dev", samples, tmp_path / "b", few, limits=LIMITS)
    write_jsonl(samples, [row | {"stop": "\ndef"} for row in rows])
    with pytest.raises(UserError, match="sample 1: `stop` must be a list of strings"):
        branch_stage(str(model), "basics:dev", samples, tmp_path / "c", limits=LIMITS)
