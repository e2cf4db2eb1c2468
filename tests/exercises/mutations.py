"""Wrong answers made by changing one thing in a right one, systematically.

Each mutant has a name, `answer:kind:number`, that stays as long as its answer does.
"""

import ast
import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

WITHOUT = (
    "detach",
    "square",
    "sqrt",
    "log",
    "exp",
    "flip",
    "abs",
    "round",
    "floor",
    "clamp",
    "T",
    "mT",
)
INSTEAD = {
    "mean": "sum",
    "sum": "mean",
    "softmax": "log_softmax",
    "log_softmax": "softmax",
    "argmax": "argmin",
    "argmin": "argmax",
    "amin": "amax",
    "amax": "amin",
    "max": "min",
    "median": "mean",
    "cumsum": "cumprod",
    "zeros": "ones",
    "no_grad": "enable_grad",
    "cos": "sin",
}
OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
}
COMPARISONS = {
    ast.Lt: ast.Gt,
    ast.Gt: ast.Lt,
    ast.LtE: ast.Lt,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
AXES = {-1: 0, 0: 1, 1: 0, 2: 1}


@dataclass
class Mutant:
    """An answer with one thing changed, and what that was."""

    name: str
    exercise: str
    kind: str
    source: str
    function: Callable


def mutants(module: ModuleType, answer: str) -> list[Mutant]:
    """All mutants of one answer, in a fixed order, none twice."""
    node = _functions(module.__file__)[answer]
    seen, found, numbers = {ast.unparse(node)}, [], {}
    for kind, changed in _changes(node):
        source = ast.unparse(ast.fix_missing_locations(changed))
        if source in seen:
            continue
        seen.add(source)
        numbers[kind] = numbers.get(kind, -1) + 1
        names = dict(vars(module))
        exec(compile(source, f"<{answer}>", "exec"), names)
        name = f"{answer}:{kind}:{numbers[kind]}"
        found.append(Mutant(name, answer.split("__")[0], kind, source, names[answer]))
    return found


@cache
def _functions(path: str) -> dict[str, ast.AST]:
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if hasattr(node, "name")}


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """The function with one change, for every change that there is."""
    yield from _whole(node)
    for place, original in enumerate(ast.walk(node)):
        kinds = [kind for kind, _ in _at(original)]
        for kind in dict.fromkeys(kinds):
            for index, other in enumerate(kinds):
                if other == kind:
                    yield kind, _changed(node, place, index)


def _changed(node: ast.AST, place: int, index: int) -> ast.AST:
    """A copy of the function with one change at one place."""
    changed = copy.deepcopy(node)
    here = next(itertools.islice(ast.walk(changed), place, None))
    _at(here)[index][1]()
    return changed


def _at(node: ast.AST) -> list[tuple[str, Callable[[], None]]]:
    """What can be changed at a place: kind and the act."""

    def put(attribute: str, value: object) -> Callable[[], None]:
        return lambda: setattr(node, attribute, value)

    acts: list[tuple[str, Callable[[], None]]] = []
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        acts.append(("operator", put("op", OPERATORS[type(node.op)]())))
    minus = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    if minus and not isinstance(node.operand, ast.Constant):
        acts.append(("sign", put("op", ast.UAdd())))
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        acts.append(("comparison", put("ops", [COMPARISONS[type(node.ops[0])]()])))
    if isinstance(node, ast.Attribute) and node.attr in INSTEAD:
        acts.append(("other-function", put("attr", INSTEAD[node.attr])))
    if isinstance(node, ast.keyword):
        acts += _keyword(node, put)
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        acts.append(("off-by-one", put("value", node.value + 1)))
    if isinstance(node, ast.Call):
        acts += _call(node, put)
    if isinstance(node, ast.If | ast.IfExp):
        acts.append(("condition", put("test", ast.UnaryOp(ast.Not(), node.test))))
    for field in ("body", "orelse"):
        body = getattr(node, field, None)
        if isinstance(body, list):
            acts += _statements(body)
    return acts


def _keyword(node: ast.keyword, put: Callable) -> list:
    value = node.value
    if node.arg in ("dim", "axis") and isinstance(value, ast.Constant) and value.value in AXES:
        return [("axis", put("value", ast.Constant(AXES[value.value])))]
    if node.arg in ("dim", "axis") and isinstance(value, ast.UnaryOp):
        return [("axis", put("value", ast.Constant(0)))]
    if isinstance(value, ast.Constant) and isinstance(value.value, bool):
        return [("flag", put("value", ast.Constant(not value.value)))]
    return []


def _call(node: ast.Call, put: Callable) -> list:
    acts = []
    if len(node.args) == 2 and not any(isinstance(a, ast.Starred) for a in node.args):
        acts.append(("swapped", put("args", node.args[::-1])))
    if isinstance(node.func, ast.Attribute) and node.func.attr in WITHOUT:
        inner = node.func.value
        if isinstance(inner, ast.Name) and inner.id in ("torch", "np", "math", "F"):
            inner = node.args[0] if node.args else None
        if inner is not None:
            acts.append(("left-out", lambda: _become(node, inner)))
    if isinstance(node.func, ast.Attribute) and node.func.attr == "normalize" and node.args:
        acts.append(("left-out", lambda: _become(node, node.args[0])))
    if isinstance(node.func, ast.Name) and node.func.id == "range":
        less = ast.BinOp(node.args[-1], ast.Sub(), ast.Constant(1))
        acts.append(("off-by-one", put("args", [*node.args[:-1], less])))
    return acts


def _become(node: ast.Call, other: ast.expr) -> None:
    """Replace a call by one of its parts: `f(x)` becomes `(x)`."""
    node.func, node.args, node.keywords = ast.Name("_same", ast.Load()), [other], []


def _statements(body: list) -> list:
    acts = []
    for index, statement in enumerate(body):
        docs = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if isinstance(statement, ast.AugAssign | ast.Expr) and not docs:
            acts.append(("left-out", lambda i=index: body.__setitem__(i, ast.Pass())))
    return acts


def _whole(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """The same function with another result."""
    if not isinstance(node, ast.FunctionDef):
        return
    arguments = [a.arg for a in node.args.args]
    bodies = {
        "none": "return None",
        "constant": "return torch.tensor(0.5)",
        "exception": "return 1 / 0",
        "returns-input": f"return {arguments[0]}",
        "text": "return 'right'",
    }
    for kind, source in bodies.items():
        changed = copy.deepcopy(node)
        changed.decorator_list, changed.body = [], ast.parse(source).body
        yield kind, changed
    for kind, source in (
        ("negative", "return _map(lambda x: -x, {0})"),
        ("doubled", "return _map(lambda x: x * 2, {0})"),
        ("wrong-dtype", "return _map(lambda x: x.to(torch.int8), {0})"),
        ("extra-axis", "return _map(lambda x: x[None], {0})"),
        ("swapped-parameters", ""),
    ):
        changed = copy.deepcopy(node)
        if kind == "swapped-parameters":
            first = changed.args.args
            if len(first) < 2:
                continue
            first[0], first[1] = first[1], first[0]
        else:
            last = changed.body[-1]
            if not isinstance(last, ast.Return) or last.value is None:
                continue
            changed.body[-1] = ast.parse(source.format(ast.unparse(last.value))).body[0]
        yield kind, changed
