"""Each operator reaches a method of its own, and none can be forgotten: at run time, and for the type checker."""

import os
import re
import shutil
import subprocess
import sys
from inspect import signature
from pathlib import Path
from types import new_class
from typing import get_args

import pytest

import spaceevo.graph
from spaceevo.graph.interpret import Interpreter
from spaceevo.graph.ops import Add, Multiply, Op

METHODS = sorted(Interpreter.__abstractmethods__)
GRAPH = Path(spaceevo.graph.__file__).parent


def method_of(op):
    """The name that the method of an operator has: `MaxPool` reaches `max_pool`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", op.__name__).lower()


def records(name):
    return lambda self, node, op, *inputs: (name, node.id, op, inputs)


def interpreter_with(names):
    return new_class("Some", (Interpreter,), exec_body=lambda body: body.update({n: records(n) for n in names}))


def test_a_method_per_operator():
    assert sorted(map(method_of, get_args(Op))) == METHODS
    for op in get_args(Op):
        parameters = list(signature(getattr(Interpreter, method_of(op))).parameters)
        assert parameters[:3] == ["self", "node", "op"]
        assert len(parameters) == (5 if op in (Add, Multiply) else 4), "as many values as it reads"


def test_each_operator_reaches_its_method(every_operator):
    interpreter = interpreter_with(METHODS)()
    reached = set()
    for node in every_operator:
        inputs = tuple(f"value of {name}" for name in node.inputs)
        name, node_id, op, values = interpreter.apply(node, inputs)
        assert (name, node_id, op, values) == (method_of(type(node.op)), node.id, node.op, inputs)
        assert op is node.op
        reached.add(name)
    assert sorted(reached) == METHODS


@pytest.mark.parametrize("missing", METHODS)
def test_one_that_lacks_a_method_is_never_made(missing):
    with pytest.raises(TypeError, match=rf"abstract method '?{missing}\b"):
        interpreter_with(set(METHODS) - {missing})()


def mypy(tmp_path, *words, path=GRAPH.parents[1]):
    """What the type checker says, as (file or folder of files, error) pairs."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"]
    command += ["--show-absolute-path", "--cache-dir", str(tmp_path / "cache"), *map(str, words)]
    env = {**os.environ, "MYPYPATH": str(path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=tmp_path)
    assert done.stderr == ""
    found = re.findall(r"^(.+?):\d+: error: (.+)$", done.stdout, flags=re.MULTILINE)
    assert bool(found) == (done.returncode == 1), done.stdout
    return found


TINY = """
from spaceevo.graph.interpret import Interpreter
from spaceevo.graph.nodes import Node
from spaceevo.graph.ops import {imports}


class Count(Interpreter[int]):
{methods}

Count()
"""


def tiny(names):
    ops = {method_of(op): op.__name__ for op in get_args(Op)}
    values = dict.fromkeys(names, "x: int") | dict.fromkeys(("add", "multiply"), "a: int, b: int")
    methods = [
        f"    def {name}(self, node: Node, op: {ops[name]}, {values[name]}) -> int:\n        return 1\n"
        for name in names
    ]
    return TINY.format(imports=", ".join(ops[name] for name in names), methods="\n".join(methods))


def test_the_type_checker_refuses_an_incomplete_interpreter(tmp_path):
    file = tmp_path / "count.py"
    file.write_text(tiny(METHODS))
    assert mypy(tmp_path, file) == []
    file.write_text(tiny([name for name in METHODS if name != "max_pool"]))
    ((path, error),) = mypy(tmp_path, file)
    assert path == str(file)
    assert error.startswith('Cannot instantiate abstract class "Count" with abstract attribute "max_pool"')


NEW = '''
@dataclass(frozen=True, slots=True)
class Concat(_Elementwise):
    """The channels of one tensor after those of another."""


Op = Concat | '''


def test_a_new_operator_and_a_new_activation_are_lists_of_errors(tmp_path):
    """As CONTRIBUTING.md says it: everything that tells operators apart is named, and nothing else."""
    source = tmp_path / "src"
    shutil.copytree(GRAPH.parent, source / "spaceevo", ignore=shutil.ignore_patterns("__pycache__", "*.pyi"))
    ops, trace = source / "spaceevo" / "graph" / "ops.py", source / "spaceevo" / "graph" / "trace.py"
    assert mypy(tmp_path, "-p", "spaceevo.graph", path=source) == [], "as it is there is none"
    for file, before, after in (
        (ops, "\nOp = ", NEW),
        (trace, 'Activation = Literal["relu"', 'Activation = Literal["mish", "relu"'),
    ):
        text = file.read_text()
        assert text.count(before) == 1
        file.write_text(text.replace(before, after))
    found = [
        (str(Path(path).relative_to(source / "spaceevo")), error)
        for path, error in mypy(tmp_path, "-p", "spaceevo.graph", path=source)
    ]
    assert sorted(path for path, error in found if "Concat" in error) == [
        "graph/check.py",  # its window
        "graph/check.py",  # its quantizers
        "graph/interpret.py",
        "graph/largest.py",
        "graph/trace.py",
    ]
    ((path, error),) = [one for one in found if "Concat" not in one[1]]
    assert path == "graph/trace.py"
    assert "Literal['mish']" in error
    assert {error for _, error in found if "Concat" in error} == {
        'Argument 1 to "assert_never" has incompatible type "Concat"; expected "Never"  [arg-type]'
    }
