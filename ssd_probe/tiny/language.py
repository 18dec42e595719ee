"""The bundled domain's own language: programs in it can compute, and reach nothing.

Without bubblewrap the demo still runs what its model wrote, but only programs in this language:
no import, no name or attribute with an underscore, no builtin beyond those below, no text.
"""

import ast
import builtins

BUILTINS = {
    "abs", "all", "any", "bool", "dict", "divmod", "enumerate", "filter", "float", "int", "len",
    "list", "map", "max", "min", "pow", "range", "reversed", "round", "set", "sorted", "sum",
    "tuple", "zip",
}  # fmt: skip
METHODS = {
    "append", "clear", "copy", "count", "extend", "fromkeys", "index", "insert", "items", "keys",
    "pop", "remove", "reverse", "sort", "values",
}  # fmt: skip
NODES = (
    ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Assign, ast.AugAssign,
    ast.For, ast.While, ast.If, ast.Break, ast.Continue, ast.Pass, ast.Expr, ast.expr_context,
    ast.BoolOp, ast.boolop, ast.BinOp, ast.operator, ast.UnaryOp, ast.unaryop, ast.Compare,
    ast.cmpop, ast.IfExp, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp,
    ast.comprehension, ast.Call, ast.keyword, ast.Name, ast.Attribute, ast.Subscript, ast.Slice,
    ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Starred,
)  # fmt: skip


def speaks(code: str) -> bool:
    """Whether a program is in the language; a false one may be harmless too, a true one is."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(_allowed(node) for node in ast.walk(tree))


def _allowed(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        known = node.id in BUILTINS or not hasattr(builtins, node.id)
        return known and not node.id.startswith("_")
    if isinstance(node, ast.Attribute):
        return node.attr in METHODS
    if isinstance(node, ast.Constant):
        return node.value is None or isinstance(node.value, int | float)
    if isinstance(node, ast.FunctionDef):
        return not node.decorator_list and not node.name.startswith("_")
    return isinstance(node, NODES)
