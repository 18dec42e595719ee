"""The domain's promises: right programs pass, careless ones fail, splits and forks are true."""

import math
import random

import pytest

from ssd_probe.models.checkpoints import load_tokenizer
from ssd_probe.tiny import domain
from ssd_probe.tiny.truth import FORK, LOCK, OFF, Truth, true_labels

TOKENIZER = load_tokenizer("tiny")
PROBLEMS = domain.problems("test", 60)


def passes(problem, source):
    namespace = {}
    exec(source, namespace)
    try:
        return all(namespace["solve"](list(xs)) == want for xs, want in problem.tests)
    except (IndexError, ValueError, ZeroDivisionError):
        return False


def encode(source):
    return [*TOKENIZER(source)["input_ids"], TOKENIZER.eos_token_id]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.problem_id)
def test_careful_programs_pass_in_every_style_and_careless_ones_fail(problem):
    rng = random.Random(1)
    assert all(passes(problem, problem.program(rng, careful=True)) for _ in range(5))
    if any(slot.careful for slot in problem.slots):
        assert not any(passes(problem, problem.program(rng, careful=False)) for _ in range(5))


def test_splits_share_no_request_and_are_the_same_every_time():
    splits = {name: domain.problems(name, 150) for name in domain.SPLITS}
    requests = [{p.request for p in found} for found in splits.values()]
    assert len(set.union(*requests)) == 150 * len(requests)
    assert [p.request for p in domain.problems("test", 60)] == [p.request for p in PROBLEMS]
    assert all(p.split == "test" for p in splits["test"])


def test_difficulty_is_the_number_of_steps():
    steps = {d: {len(p.slots) for p in PROBLEMS if p.difficulty == d} for d in domain.DIFFICULTIES}
    assert max(steps["easy"]) < min(steps["medium"]) <= max(steps["medium"]) < min(steps["hard"])


@pytest.mark.parametrize("problem", PROBLEMS[:12], ids=lambda p: p.problem_id)
def test_truth_multiplies_to_the_share_of_the_program(problem):
    """The chain rule: the product over tokens is the share with which the corpus writes it."""
    truth = Truth(TOKENIZER, problem)
    chosen = [random.Random(2).choice(slot.alternatives) for slot in problem.slots]
    ids = encode(domain.HEADER + "".join(source for source, _ in chosen))
    distributions = truth.walk(ids)
    assert all(sum(d.values()) == pytest.approx(1) for d in distributions)
    product = math.prod(d[token] for d, token in zip(distributions, ids, strict=True))
    assert product == pytest.approx(math.prod(share for _, share in chosen))


def test_labels_mark_forks_locks_and_what_lies_after_an_error():
    problem = next(p for p in PROBLEMS if p.slots[-1].careful)
    ids = encode(problem.program(random.Random(0)))
    labels = Truth(TOKENIZER, problem).labels(ids)
    assert labels.count(FORK) >= 1 and labels.count(LOCK) > labels.count(FORK)
    broken = Truth(TOKENIZER, problem).labels([*ids[:3], TOKENIZER.pad_token_id, *ids[3:]])
    assert broken[:4] == labels[:3] + [labels[3]]
    assert set(broken[4:]) == {OFF}


def test_true_labels_count_positions_from_the_start_of_the_prompt():
    ids = encode(PROBLEMS[0].solution)
    sample = {
        "sample_id": "s",
        "problem_id": PROBLEMS[0].problem_id,
        "prompt_ids": [1, 2, 3],
        "completion_ids": ids,
    }
    frame = true_labels(TOKENIZER, PROBLEMS[:1], [sample])
    assert frame["position"].tolist() == list(range(3, 3 + len(ids)))
