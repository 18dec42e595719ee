"""What commands end with: sentences first, 100 columns, colours on terminals only."""

import errno
import os
import subprocess
import sys

import pytest

from ssd_probe.files.writing import write_jsonl
from ssd_probe.views.evaluation import doubts, sentences, told
from ssd_probe.views.terminal import Told, filled


def result_of(*verdicts: tuple[str, str, str], **more) -> dict:
    """An evaluation of these (problem, verdict, detail)."""
    rows = [dict(zip(("task_id", "verdict", "detail"), each, strict=True)) for each in verdicts]
    score = {"estimate": 0.4, "low": 0.3, "high": 0.52, "problems": 3}
    passes = [{"group": group, "k": k, **score} for group in ("all", "hard") for k in (1, 5)]
    plain = {"without_code": 0.0, "flips": 0, "isolation": "bubblewrap"}
    return {"results": rows, "pass_at_k": passes, **plain, **more}


RESULT = result_of(
    ("a", "pass", ""), ("a", "wrong", "1, not 2"), ("a", "wrong", "3, not 2"),
    ("b" * 90, "timeout", "over 3 s"), ("b" * 90, "error", "NameError: " + "x" * 200),
    ("c", "error", "no code in the answer"), ("c", "crash", "signal 11"),
    ("d", "infra_error", "no box"),
)  # fmt: skip


class TestEvaluation:
    def test_how_many_pass_and_what_failed_most(self):
        first, second = sentences(RESULT)
        assert first.startswith("pass@1 0.400 [0.30, 0.52], pass@5 0.400 [0.30, 0.52] on 3 prob")
        assert second == (
            "Of 7 samples 6 failed: 2 gave a wrong result, 1 ran over time, 1 raised an exception, "
            "1 held no code, 1 crashed."
        )
        assert sentences(result_of(("a", "pass", "")))[1] == "All of 1 samples pass."

    def test_what_to_distrust(self):
        assert doubts(result_of(("a", "pass", ""))) == []
        ended = [True, False, None, False, True, True, True, True]
        changed = RESULT | {"flips": 2, "without_code": 1 / 8, "isolation": "none, accepted"}
        assert [each.split(":")[0] for each in doubts(changed, ended)] == [
            "1 of 8 samples could not be run (infra_error) and are in no pass@k",
            "2 of 8 samples are unfinished, 2 of them among the failed",
            "12.5 % of the answers hold no code",
            "2 samples were over time at first and not when run alone",
            "isolation",
        ]

    def test_full_has_each_problem_and_stays_narrow(self):
        short, full = (str(told(RESULT, full=each)) for each in (False, True))
        assert "hard" in short and "NameError" not in short and "--full" in short
        assert "wrong 2" in full and "NameError" in full and "--full" not in full
        assert 90 < max(map(len, full.splitlines())) <= 100 >= max(map(len, short.splitlines()))

    def test_what_programs_wrote_cannot_colour_the_terminal(self):
        hostile = result_of(("a\x1b[2J", "error", "E: \x1b]0;title\x07\nsecond\u202e line"))
        text = str(told(hostile, full=True))
        assert not {"\x1b", "\x07", "\u202e"} & set(text) and "second" in text

    def test_many_k_stay_narrow_too(self):
        many = [row | {"k": k} for row in RESULT["pass_at_k"][::2] for k in range(1, 9)]
        lines = str(told(RESULT | {"pass_at_k": many})).splitlines()
        assert max(map(len, lines)) <= 100 and sum("pass@8" in line for line in lines) == 2


def test_no_number_stands_apart_from_its_percent():
    for lead in range(80, 100):
        lines = filled(["x" * lead + " and 12 % of it"])
        assert not any(line.lstrip().startswith("%") for line in lines)
        assert " ".join(line.strip() for line in lines) == "x" * lead + " and 12 % of it"


def test_paint_goes_around_lines_and_nothing_else():
    made = Told(["One."], ["a b\n1 2"], ["Careful."], ["more: --full"], "Title")
    kinds = []
    text = made.text(lambda line, kind: (kinds.append(kind), line)[1])
    assert text == str(made) == "Title\n\nOne.\n\na b\n1 2\n\nnote: Careful.\nmore: --full"
    assert kinds == ["rest", "sentence", "rest", "rest", "doubt", "rest"]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory) -> list[str]:
    """A command that evaluates three real programs, one of them cut."""
    file = tmp_path_factory.mktemp("evaluation") / "samples.jsonl"
    bodies = ("    return 1\n", "    while True", "    raise ValueError\n")
    write_jsonl(file, [
        {"task_id": "HumanEval/0", "completion": body, "finished": i != 1}
        for i, body in enumerate(bodies)
    ])  # fmt: skip
    return [sys.executable, "-m", "ssd_probe.cli", "evaluate", "--problems", "humaneval",
            "--samples", str(file), "--i-accept-unsandboxed-execution"]  # fmt: skip


def test_piped_there_are_no_colours(evaluation):
    made = subprocess.run(evaluation, capture_output=True, text=True, check=True)
    assert "\x1b" not in made.stdout and "note: 1 of 3 samples are unfinished" in made.stdout
    assert made.stdout.startswith("pass@1 ") and max(map(len, made.stdout.splitlines())) <= 100


@pytest.mark.parametrize(("more", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_on_a_terminal_there_are_unless_they_are_not_wanted(evaluation, more, coloured):
    said = on_a_terminal(evaluation, {"TERM": "xterm", **more})
    assert ("\x1b[1mpass@1 " in said) == ("\x1b[33mnote: 1 of 3" in said) == coloured
    assert ("\x1b[" in said) == coloured


def on_a_terminal(command: list[str], more: dict[str, str]) -> str:
    """What a command says on stdout where that is a terminal."""
    ours, theirs = os.openpty()
    env = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | more
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL, env=env):
        os.close(theirs)
        said = b""
        try:
            while chunk := os.read(ours, 4096):
                said += chunk
        except OSError as error:  # Linux: the other end is closed
            if error.errno != errno.EIO:
                raise
    os.close(ours)
    return said.decode()
