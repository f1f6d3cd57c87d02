"""No script and no distribution starts Python in a way that imports from the working directory."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("deploy", "edgecl", "export", "scripts", "examples", "benchmarks", "docs")
LOOKS = {"-m", "-c"}  # both put the working directory first, unless `-I` comes before them


def calls(tree: ast.AST) -> Iterator[tuple[int, list[object]]]:
    """Yield the words of every list, tuple and call that holds a literal `-m` or `-c`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple):
            parts = node.elts
        elif isinstance(node, ast.Call):
            parts = node.args
        else:
            continue
        words = [part.value if isinstance(part, ast.Constant) else None for part in parts]
        if LOOKS & {word for word in words if isinstance(word, str)}:
            yield node.lineno, words


def unsafe(source: str) -> list[int]:
    return [
        line
        for line, words in calls(ast.parse(source))
        if "-I" not in words and not {"bash", "sh", "/bin/sh", "git"} & set(map(str, words))
    ]


def test_every_interpreter_that_we_start_is_isolated():
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        for line in unsafe(path.read_text(encoding="utf-8"))
    ]
    assert not found, "use edgecl_deploy.children.python_module, or -I"


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("run([sys.executable, '-m', 'build'])", [1]),
        ("run((python, '-c', code))", [1]),
        ("tool(sys.executable, '-m', 'twine')", [1]),
        ("run([sys.executable, '-I', '-m', 'build'])", []),
        ("run(['bash', '-c', 'x'])", []),
    ],
)
def test_what_this_test_sees(source, lines):
    assert unsafe(source) == lines
