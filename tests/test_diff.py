"""What `ssd-probe diff` finds between records and recipes, and how it says so."""

import json
import sys

import pytest

from ssd_probe.cli.app import main
from ssd_probe.commands.diffing.aspects import ASPECTS
from ssd_probe.commands.diffing.facts import RECIPES, Fact, Side, recipe, side_of
from ssd_probe.commands.diffing.stage import compared, diff_stage
from ssd_probe.commands.loop.presets import PAPER, choose
from ssd_probe.errors import UserError
from ssd_probe.files.writing import write_json
from ssd_probe.views.outside import differences

VERSIONS = {"transformers": "5.23.0"}
MODEL = {"weights": "a" * 64, "template": "b" * 64}


def run_folder(path, source="qwen3-4b-instruct", changes=None, prompts="c" * 64):
    """A run as far as its declaration."""
    path.mkdir()
    loop = choose(source, changes=changes).loop
    settings = {"model": MODEL, "prompts": prompts, "problems": {}, "loop": loop.recorded()}
    write_json(path / "run.json", {"settings": settings, "versions": VERSIONS})
    return path


def sampled(path, temperature=1.6, style="chat", weights="a" * 64, **more):
    decoding = {"temperature": temperature, "top_k": 20, "top_p": 0.8,
                "order": "temperature, top_k, top_p"} | more  # fmt: skip
    settings = {"model": MODEL | {"weights": weights}, "style": style, "prompts": "c" * 64,
                "decoding": decoding, "n": 1, "max_new_tokens": 512, "seed": 0}  # fmt: skip
    path.write_text("")
    record = {"settings": settings, "versions": VERSIONS, "model": "m", "source": "p.jsonl"}
    write_json(path.with_name(path.name + ".run.json"), record)
    return path


def names(found):
    return [each.what for each in found.found]


def test_the_paper_s_own_preset_differs_from_the_paper_in_what_this_tool_does_otherwise(tmp_path):
    found = diff_stage(run_folder(tmp_path / "run"), "paper")
    assert names(found) == ["de-duplication", "problem window", "engine"]
    assert {"model", "truncation order", "training decoding", "warm-up"} <= set(found.same)


def test_what_was_changed_is_found_in_the_order_of_its_weight(tmp_path):
    changes = {"training": {"warmup_steps": 2500}, "style": "raw", "n": 2,
               "arms": {"ssd": {"T_train": 1.3}}}  # fmt: skip
    found = diff_stage(run_folder(tmp_path / "run", changes=changes), "paper")
    assert names(found)[:2] == ["prompt style", "training decoding"]
    warmup = next(each for each in found.found if each.what == "warm-up")
    assert warmup.run.value == "2500 of 2500 steps (100%)"
    assert warmup.other.value == "250 of 2500 steps (10%)"
    order = [aspect.name for aspect in ASPECTS]
    assert [order.index(name) for name in names(found)] == sorted(map(order.index, names(found)))


def test_records_of_the_main_arm_say_what_was_done(tmp_path):
    run = run_folder(tmp_path / "run")
    (run / "samples").mkdir()
    sampled(run / "samples" / "ssd.jsonl", temperature=1.5, style="raw")
    facts = side_of(run).facts
    assert facts["train"].value == "T=1.5, top-k 20, top-p 0.8" and facts["style"].value == "raw"
    assert facts["train"].source == "samples/ssd.jsonl.run.json"


def test_the_paper_s_model_is_the_run_s_or_the_one_named(tmp_path):
    thinking = side_of(run_folder(tmp_path / "run", "qwen3-4b-thinking"))
    assert recipe("paper", thinking).facts["train"].value == "T=1.1, top-k 20, top-p 0.95"
    assert recipe("paper:gpt-oss-20b", thinking).facts["train"].value.startswith("T=1.2, top-k off")
    other = Side("mine", {"model": Fact("mine", "")})
    assert recipe("paper", other).facts["model"].value == PAPER["qwen3-4b-instruct"][0]
    with pytest.raises(UserError, match="the paper's models are"):
        recipe("paper:gpt", other)


def test_apple_s_repository_samples_cooler_and_without_the_template(tmp_path):
    """Facts read there: T=1.5 where the paper prints 1.6, a plain prompt, a tenth filtered."""
    found = diff_stage(run_folder(tmp_path / "run"), "ml-ssd")
    said = {each.what: each for each in found.found}
    assert said["training decoding"].other.value == "T=1.5, top-k 20, top-p 0.8"
    assert "shortest 10 %" in said["filter"].other.value
    assert said["filter"].other.source.startswith("data_generation/")
    assert ("learning rate", found.other) in found.unknown


def test_every_fact_of_a_recipe_is_an_aspect_with_a_source(tmp_path):
    run = side_of(run_folder(tmp_path / "run"))
    keys = {aspect.key for aspect in ASPECTS}
    for name in RECIPES:
        facts = recipe(name, run).facts
        assert facts.keys() <= keys and all(fact.source and fact.value for fact in facts.values())
    assert side_of(tmp_path / "run").facts.keys() <= keys


def test_samples_are_told_apart_by_content_not_by_name(tmp_path):
    one, two = sampled(tmp_path / "a.jsonl"), sampled(tmp_path / "b.jsonl", weights="d" * 64)
    found = diff_stage(one, str(two))
    assert names(found) == ["model"]
    assert "m (another content)" in str(differences(found.to_dict()))
    assert str(differences(diff_stage(one, str(one)).to_dict())).startswith(
        "No difference in what both"
    )


def test_the_table_has_100_columns_and_a_sentence_for_each(tmp_path):
    found = diff_stage(run_folder(tmp_path / "run", changes={"seed": 3}), "ml-ssd").to_dict()
    said = str(differences(found))
    assert max(map(len, said.splitlines())) <= 100
    assert all(
        " ".join(row["why"].split()) in " ".join(said.split()) for row in found["differences"]
    )


def test_an_aspect_that_neither_says_is_left_out():
    found = compared(Side("a", {"n": Fact("1", "x")}), Side("b", {"seed": Fact("0", "y")}))
    assert (found.found, found.same) == ([], [])
    assert found.unknown == [("seeds", "a"), ("answers a prompt", "b")]


@pytest.mark.parametrize(("arguments", "message"), [
    (["absent", "paper"], "absent: no such file or folder"),
    (["bare", "paper"], "bare: no run.json beside or in it"),
    (["odd.jsonl", "paper"], "odd.jsonl.run.json: of none of run, sample, train, evaluate"),
    (["broken.jsonl", "paper"], "broken.jsonl.run.json: damaged, or of another version"),
    (["a.jsonl", "ml-ssd:4b"], "ml-ssd:4b: only the paper has several models"),
    (["a.jsonl", "sdd"], "sdd: no such file or folder"),
])  # fmt: skip
def test_bad_input_is_one_line(tmp_path, monkeypatch, capfd, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bare").mkdir()
    sampled(tmp_path / "a.jsonl")
    for name, settings in (("odd", {}), ("broken", {"decoding": {}})):
        (tmp_path / f"{name}.jsonl").write_text("")
        (tmp_path / f"{name}.jsonl.run.json").write_text(json.dumps({"settings": settings}))
    monkeypatch.setattr(sys, "argv", ["ssd-probe", "diff", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capfd.readouterr()[1]
    assert stop.value.code == 2 and said.startswith(f"error: {message}") and said.count("\n") == 1
