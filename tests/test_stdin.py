"""What works in a program that reads a pipe works in a box, which has no /proc."""

import pytest

from ssd_probe.execution.evaluate import evaluate
from ssd_probe.problems import livecodebench
from ssd_probe.problems.tasks import Task
from tests.test_evaluate import pytestmark, verdict  # noqa: F401 (skips where no box is)

READERS = (  # each gives the words of stdin, in a program of a pipe and so in ours
    *("open('/dev/stdin').read()", "open('/dev/fd/0').read()", "io.open(0).read()"),
    *("open('/proc/self/fd/0', 'rb').read()", "open(0, 'rb').read()", "codecs.open(STDIN).read()"),
    *("Path(STDIN).read_text()", "os.path.exists(STDIN) and Path(STDIN).open().read()"),
    *("os.read(0, 100)", "os.read(os.open(STDIN, os.O_RDONLY), os.fstat(0).st_size)"),
    *("os.read(os.open('/proc/self/fd/0', os.O_RDONLY), 100)", "os.fdopen(0).read()"),
    *("sys.stdin.buffer.read()", "sys.stdin.detach().read()", "io.FileIO(0).readall()"),
    *("''.join(fileinput.input())", "''.join(fileinput.input(STDIN))", "' '.join(until_the_end())"),
    *("' '.join(map(str, np.loadtxt(STDIN, int).ravel()))", "' '.join(iter_lines())"),
    *("' '.join(map(str, np.genfromtxt(STDIN, int).ravel()))", "np_text(np.loadtxt(sys.stdin))"),
    *("np_text(np.fromfile(sys.stdin, sep=' '))", "np_text(np.fromfile(STDIN, sep=' '))"),
    "np_text(__import__('pandas').read_csv(STDIN, header=None, sep=' ').to_numpy())",
    *("np_text(np.array([*csv.reader(sys.stdin, delimiter=' ')]))", "mmap.mmap(0, 0, prot=1)[:]"),
    # what LiveCodeBench's own `open` and `sys.stdin` give: all of it, again
    *("open('input.txt').read()", "sys.stdin.read(3) and sys.stdin.seek(0) or sys.stdin.read()"),
    "open('input.txt').read() and sys.stdin.read()", "sys.stdin.read() and open(STDIN).read()",
)  # fmt: skip
READ = """
import codecs, csv, fileinput, io, mmap, os, sys
import numpy as np
from pathlib import Path
STDIN = "/dev/stdin"
def np_text(array):
    return " ".join(str(int(each)) for each in array.ravel())
def iter_lines():
    return list(iter(sys.stdin.readline, ""))
def until_the_end():
    lines = []
    try:
        while True:
            lines.append(input())
    except EOFError:
        return lines
"""


@pytest.mark.parametrize("code", READERS)
def test_a_program_reads_its_stdin_in_any_way(code):
    """Two inputs, so that what stands in a file is this test's."""
    tests = tuple((given, str(total)) for given, total in (("1 2\n3 4\n", 10), ("1 2\n5 6\n", 14)))
    task = Task("p", kind="stdio", tests=tests, setup=livecodebench.SETUP)
    assert verdict(f"{READ}print(sum(map(int, ({code}).split())))", task) == "pass"


def test_a_program_without_a_box_reads_its_stdin_in_any_way():
    tests = (("1 2\n3 4\n", "10"), ("1 2\n5 6\n", "14"))
    tasks = {"p": Task("p", kind="stdio", tests=tests, setup=livecodebench.SETUP)}
    codes = [f"{READ}print(sum(map(int, ({code}).split())))" for code in READERS]
    rows = [{"problem_id": "p", "completion": code} for code in codes]
    frame = evaluate(rows, tasks, unsandboxed=True, progress=False)
    failing = frame["verdict"] != "pass"
    assert {READERS[i]: frame["detail"][i] for i in frame.index[failing]} == {}


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_a_program_has_no_arguments_and_a_path_of_its_output(path):
    code = f"import sys\nopen({path!r}, 'w').write(f'{{len(sys.argv)}} ')\nprint(input())"
    task = Task("p", kind="stdio", tests=(("1", "1 1"),), setup=livecodebench.SETUP)
    assert verdict(code, task) == "pass"


def test_stdin_is_gone_when_its_program_is():
    """The file that `/dev/stdin` is holds nothing of the program before, whatever its kind."""
    tasks = {
        "p": Task("p", kind="stdio", tests=(("secret", "1"),)),
        "q": Task("q", entry="f", tests=(([], ""),)),
        "r": Task("r", kind="stdio", tests=(("", "0"),)),
    }
    codes = {
        "p": "f = open('/dev/stdin', 'r+')\nf.seek(10)\nf.write('more')\nf.flush()\nprint(1)",
        "q": "def f():\n    return open('/dev/stdin').read()",
        "r": "print(len(open('/dev/stdin').read()))",
    }
    rows = [{"problem_id": name, "completion": codes[name]} for name in "pqprpq"]
    rows = [{**row, "completion": f"{row['completion']}  # {i}"} for i, row in enumerate(rows)]
    frame = evaluate(rows, tasks, workers=1, progress=False)
    assert frame["verdict"].tolist() == ["pass"] * 6
