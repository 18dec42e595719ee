"""When a run cannot show anything: sentences on both sides of their bounds, where they are said."""

import json

import pytest

from ssd_probe.commands.sampling.answers import answer_lengths, loops
from ssd_probe.commands.train import train_stage
from ssd_probe.core.config import TrainConfig
from ssd_probe.core.train import train
from ssd_probe.files.writing import write_jsonl
from ssd_probe.views import doubts
from tests.models import save, tiny_model, tiny_tokenizer

NAN = float("nan")


@pytest.mark.parametrize(("said", "words"), [
    (doubts.short_training(57, 50), "57 training steps, 50 of them warm-up"),
    (doubts.short_training(100, 50), "100 training steps, 50 of them warm-up"),
    (doubts.short_training(10, 50), "10 training steps, 10 of them warm-up"),
    (doubts.short_training(101, 50), None),
    (doubts.short_training(1, 0), None),
    (doubts.cut_samples(405, 480), "405 of 480 samples (84%) were cut at their longest: the"),
    (doubts.cut_samples(405, 480, kept=False), "(84%) were cut at their longest and left out"),
    (
        doubts.cut_of_arms({"a": (19, 48), "b": (1, 48), "c": (30, 48)}, kept=False),
        "19 of 48 samples of a (40%) and 30 of 48 samples of c (62%) were cut at their longest and"
        " left out: the students learn",
    ),
    (doubts.cut_samples(5, 100), "5 of 100 samples (5%)"),
    (doubts.cut_samples(4, 100), None),
    (doubts.cut_samples(0, 0), None),
    (doubts.hardly_moved("ssd", 0.5, 0.46), "ssd hardly moved to its training target: KL(q || p) "
     "0.5000 -> 0.4600 nats, only 8.0% of the way; what it does"),
    (doubts.hardly_moved("ssd", 0.5, 0.6), "ssd ended farther from its training target than the "
     "base was: KL(q || p) 0.5000 -> 0.6000 nats; what it does"),
    (doubts.hardly_moved("ssd", 0.5, 0.44), None),
    (doubts.hardly_moved("ssd", 0.5, 0.1), None),
    # SmolLM2's main arm: two thirds of what lay outside came in, and made the inside too sharp
    (doubts.hardly_moved("T1.0", 0.0987, 0.0909, (0.0987, 0.0396)), "T1.0 hardly moved to its "
     "training target: KL(q || p) 0.0987 -> 0.0909 nats, only 7.9% of the way; less of its mass "
     "lies outside the support (0.0987 -> 0.0396), but within it the shape moved away (0.0000 -> "
     "0.0513)"),
    (doubts.hardly_moved("T1.3", 0.0686, 0.0740, (0.0604, 0.0404)), "T1.3 ended farther from its "
     "training target than the base was: KL(q || p) 0.0686 -> 0.0740 nats; less of its mass"),
    (doubts.hardly_moved("ssd", 0.5, 0.49, (0.4, 0.39)), "ssd hardly moved to its training"),
    (doubts.hardly_moved("ssd", 0.0, 0.1), None),  # at its target before: nothing to move
    (doubts.hardly_moved("ssd", NAN, 0.1), None),
    # 2.80 / 1.96 of half the interval; 2.80 sqrt(0.5 / 50) = 0.28
    (doubts.few_problems("test", 99, -0.05, 0.15), "99 test problems: a true difference in pass@1 "
     "below about 0.14 is told from none less than four times in five (by the 95 % interval)"),
    (doubts.few_problems("dev", 50, NAN, NAN), "below about 0.28 is told from none less than four "
     "times in five (at the worst)"),
    (doubts.few_problems("dev", 50, 0.0, 0.0), "below about 0.28"),  # no spread: none is known
    (doubts.few_problems("test", 500, -0.04, 0.04), "500 test problems: a true difference in "
     "pass@1 below about 0.06"),
    (doubts.few_problems("test", 100, -0.03, 0.03), None),
    (doubts.few_problems("test", 100, NAN, NAN), None),
    (doubts.own_difficulty("smollm2", "basics:test"), "easy or hard in basics:test was measured by "
     "smollm2's own answers"),
    (doubts.own_difficulty("tiny", "basics"), None),
    (doubts.own_difficulty("smollm2", "humaneval"), None),
    (doubts.few_steps({"a": 49, "b": 50}), "few steps of training (a 49; the paper's"),
    (doubts.few_steps({"a": 4, "b": 3}), "(a 4, b 3; the paper's"),
    (doubts.few_steps({"b": 50}), None),
    (doubts.few_steps({}), None),
    (doubts.unlike_training("a", "c", (28, 18), (4, 3)), "a was trained on 28 samples in 4 steps, "
     "c on 18 in 3: what tells them apart may be the amount"),
    (doubts.unlike_training("a", "c", (28, 28), (4, 3)), "a was trained on 28"),
    (doubts.unlike_training("a", "c", (28, 28), (4, 4)), None),
    (doubts.shorter_answers("a", (95.3, 48.8), 19, 48), "a's answers to the test problems have 49 "
     "tokens on average, the base's 95, and 19 of its 48 samples (40%), the longest"),
    (doubts.shorter_answers("a", (95.3, 48.8), 0, 48), None),  # none was left out
    (doubts.shorter_answers("a", (95.0, 76.0), 19, 48), None),
    (doubts.shorter_answers("a", (NAN, 76.0), 19, 48), None),
    (doubts.rule_unproven([{"label": "fork", "f1": 0.0, "auc": 0.417},
                           {"label": "lock", "f1": 0.7, "auc": 0.417}], 9, 4),
     "does not find the outcomes' forks (F1 0.000, AUC 0.417), locks (F1 0.700, AUC 0.417) better "
     "than chance at 9 decided positions of 4 programs"),
    (doubts.rule_unproven([{"label": "fork", "f1": 0.4, "auc": 0.7}], 9, 4), None),
    (doubts.rule_unproven([{"label": "fork", "f1": NAN, "auc": NAN}], 9, 4), None),
    (doubts.rule_unproven([], 0, 4), None),
    (doubts.one_seed(1), "one seed"),
    (doubts.one_seed(2), None),
    (doubts.looping("base", 4, 80), "4 of 80 answers of base to the test problems repeat"),
    (doubts.looping("base", 3, 80), None),
    (doubts.looping("base", 0, 0), None),
    (doubts.much_prose({"text": 25, "code": 75}), "25% of the probed positions are prose"),
    (doubts.much_prose({"text": 24, "code": 76}), None),
    (doubts.much_prose({"text": 100}), None),  # texts of prose are what was asked for
])  # fmt: skip
def test_a_sentence_on_both_sides_of_its_bound(said, words):
    assert said is None if words is None else words in said and "\n" not in said


def test_the_ends_of_the_range_are_told_of_all_models_at_once():
    tried = (1.0, 1.6, 2.5)
    low, high = doubts.at_the_end({"base": 2.5, "a": 1.0, "b": 1.6, "c": 1.0}, tried)
    assert low == (
        "the best T_eval of a, c, 1, is the lowest that was tried: the true best may be lower"
    )
    assert high.startswith("the best T_eval of base, 2.5, is the highest that was tried")
    assert doubts.at_the_end({"b": 1.6}, tried) == []
    assert doubts.at_the_end({"b": 1.6}, (1.6,)) == []  # nothing was to be chosen


@pytest.mark.parametrize(("ids", "found"), [
    ([9] * 5 + [1, 2, 3, 4] * 6, True), ([9] * 5 + [1, 2, 3, 4] * 6 + [1, 2], True),
    ([7] * 24, True), ([7] * 23, False), ([1, 2, 3, 4] * 5, False),  # too short to be a loop
    (list(range(20)) * 3, True), (list(range(20)) * 2, False), (list(range(99)), False),
    ([1, 2, 3, 4] * 9 + [5], False), ([], False),
])  # fmt: skip
def test_an_answer_that_goes_round_in_a_loop(ids, found):
    assert loops(ids) is found


def test_how_long_answers_are(tmp_path):
    write_jsonl(tmp_path / "s.jsonl", [
        {"completion_ids": [7] * 30, "finished": False}, {"completion_ids": [7] * 30},
        {"completion_ids": [1, 2], "finished": True}, {"completion_ids": [], "finished": False},
    ])  # fmt: skip
    found = answer_lengths(tmp_path / "s.jsonl")
    assert found == {"answers": 4, "tokens": 15.5, "cut": 2, "looping": 1}


def test_what_is_nothing_is_left_out_and_nothing_is_said_twice():
    assert doubts.collect(None, "a", ["b", None, "a"], []) == ["a", "b"]


@pytest.mark.parametrize(("given", "steps", "expected"), [
    (None, 57, 5), (None, 9, 0), (None, 500, 50), (None, 2500, 50), (50, 57, 50), (0, 500, 0),
])  # fmt: skip
def test_the_default_warm_up_is_at_most_a_tenth_of_the_steps(given, steps, expected):
    assert TrainConfig(warmup_steps=given).warmup(steps) == expected


ROW = {"completion": "a\nb", "prompt_ids": [5], "completion_ids": [6, 7, 8]}


@pytest.mark.parametrize(("samples", "options", "steps"), [
    (7, {"batch_size": 3}, 3),
    (7, {"batch_size": 2, "gradient_accumulation": 3, "epochs": 2.5}, 5),
    (7, {"batch_size": 8, "epochs": 0.5}, 1),
    (7, {"batch_size": 2, "max_steps": 2}, 2),
])  # fmt: skip
def test_the_steps_are_those_that_the_trainer_makes(tmp_path, samples, options, steps):
    config = TrainConfig(learning_rate=1e-4, **options)
    assert config.steps(samples) == steps
    train(tiny_model("llama"), tiny_tokenizer(), [ROW] * samples, config, tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == steps


def test_train_says_before_it_begins_that_warm_up_is_all_there_is(tmp_path, capsys):
    model, samples = save(tmp_path / "model", "llama"), tmp_path / "s.jsonl"
    cut = [ROW | {"finished": i > 0} for i in range(4)]
    write_jsonl(samples, cut)
    config = TrainConfig(batch_size=2, warmup_steps=2)
    train_stage(str(model), samples, config, tmp_path / "short")
    record = json.loads((tmp_path / "short" / "run.json").read_text())
    said = capsys.readouterr().err
    assert record["planned"] == {"steps": 2, "warmup_steps": 2}
    assert [doubt.split(":")[0] for doubt in record["doubts"]] == [
        "2 training steps, 2 of them warm-up",
        "1 of 4 samples (25%) were cut at their longest",
    ]
    for doubt in record["doubts"]:
        assert f"note: short: {doubt}\n" in said
    train_stage(str(model), samples, TrainConfig(batch_size=2), tmp_path / "plain")
    record = json.loads((tmp_path / "plain" / "run.json").read_text())
    assert record["planned"]["warmup_steps"] == 0 and len(record["doubts"]) == 1


def test_samples_cut_by_their_length_may_be_left_out(tmp_path, capsys):
    model, samples = save(tmp_path / "model", "llama"), tmp_path / "s.jsonl"
    write_jsonl(samples, [ROW | {"finished": True}, ROW | {"finished": False}, ROW])
    config = TrainConfig(batch_size=2, drop_unfinished=True)
    train_stage(str(model), samples, config, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["used"] == 2 and record["dropped"] == {"cut by their length": 1}
    assert "1 of 3 samples left out (1 cut by their length)" in capsys.readouterr().err
    assert record["doubts"] == [doubts.cut_samples(1, 3, kept=False)]
