"""Do tests notice wrong code? Changes one operator or constant at a time, and counts the changes that fail a test.

``python benchmarks/mutants.py score/evaluation --tests tests/evaluation tests/studies/test_grid.py --number 100``

Nothing is written: a mutant is compiled in a forked process that has the libraries loaded, and faces those tests that
run its line (all of them where it runs on import). One that takes more seconds of CPU than ``--limit`` counts as
noticed. Survivors are listed.
"""

from __future__ import annotations

import argparse
import ast
import importlib.machinery
import importlib.util
import itertools
import multiprocessing
import os
import random
import resource
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import coverage
import pytest

PRELOADED = ("torch", "detectron2.evaluation", "timm", "open_clip", "scipy.ndimage", "hotcoco", "cv2", "hydra")
SWAPPED = "Lt LtE, Gt GtE, Eq NotEq, In NotIn, Is IsNot, And Or, Add Sub, BitAnd BitOr, LShift RShift, Mult Div"
SWAPS = {a: b for pair in SWAPPED.split(", ") for a, b in (pair.split(), pair.split()[::-1])}
SWAPS |= dict.fromkeys(("FloorDiv", "Mod", "Pow", "MatMult"), "Mult") | {"BitXor": "BitOr"}


def mutant(path: Path, number: int) -> tuple[ast.Module, int, str]:
    """A source file with one of its places changed, the line of that, and words for it."""
    tree, changed = (ast.parse(path.read_text(encoding="utf-8")) for _ in range(2))
    nodes = [next(itertools.islice(_places(item), number, None)) for item in (tree, changed)]
    field, value = _change(nodes[0]) or ("", None)
    setattr(nodes[1], field, value)
    said = [" ".join(ast.unparse(x.test if field == "test" else x).split())[:90] for x in nodes]
    return ast.fix_missing_locations(changed), nodes[0].lineno, f"{path}:{nodes[0].lineno}: {said[0]}  ->  {said[1]}"


def _places(tree: ast.AST) -> Iterator[Any]:
    """Nodes that may be changed: not in annotations, nor in aliases of types."""
    for name, value in ast.iter_fields(tree):
        for child in value if isinstance(value, list) else [value]:
            alias = isinstance(tree, ast.Module) and isinstance(
                getattr(child, "value", None), ast.BinOp | ast.Subscript
            )
            if isinstance(child, ast.AST) and name not in ("annotation", "returns") and not alias:
                yield child
                yield from _places(child)


def _change(node: Any) -> tuple[str, Any] | None:
    """A field of a node, and what to put there."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        return "ops", [getattr(ast, SWAPS[type(node.ops[0]).__name__])()]
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign):
        return "op", getattr(ast, SWAPS[type(node.op).__name__])()
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return "op", ast.UAdd()
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        return "value", not node.value if isinstance(node.value, bool) else node.value + 1
    return ("test", ast.UnaryOp(ast.Not(), node.test)) if isinstance(node, ast.If | ast.IfExp) else None


class Mutated(importlib.machinery.SourceFileLoader):
    """Finds and loads one module, from a changed tree."""

    def __init__(self, path: Path, tree: ast.Module) -> None:
        super().__init__(".".join(path.with_suffix("").parts), str(path.resolve()))
        self.tree = tree

    def get_code(self, fullname: str) -> Any:  # noqa: D102
        return compile(self.tree, self.path, "exec")

    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:  # noqa: D102
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None


def noticed(tests: Sequence[str], loader: Mutated | None, limit: int, *options: str) -> bool:
    """Whether a test fails, or all take longer than ``limit`` seconds of CPU."""

    def run() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        os.dup2(null := os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(null, 2)
        sys.meta_path[:0] = [loader] if loader else []
        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *options, *tests]) != 0))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(30 * limit)  # one that waits for itself uses no CPU
    process.kill()
    process.join()
    return process.exitcode != 0


def covering(tests: Sequence[str], files: Iterable[Path]) -> dict[Path, dict[int, set[str]]]:
    """The tests that run each line of some files, an empty name for importing."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["COVERAGE_FILE"] = f"{folder}/coverage"
        if noticed(tests, None, 3600, "--cov=score", "--cov-context=test", "--cov-report=", "--cov-fail-under=0"):
            sys.exit("error: the tests fail on the code as it is; mend that first")
        data = coverage.CoverageData(os.environ["COVERAGE_FILE"])
        data.read()
        found = {file: data.contexts_by_lineno(str(file.resolve())) for file in files}
    return {
        file: {line: {name.split("|")[0] for name in names} for line, names in lines.items()}
        for file, lines in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path, help="files or folders below score/")
    parser.add_argument("--tests", nargs="+", required=True, help="files or folders")
    for name, default in (("number", 100), ("seed", 1), ("limit", 120)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    files = sorted(file for path in given.sources for file in ([path] if path.is_file() else path.rglob("*.py")))
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in files}
    found = [(file, i) for file, tree in trees.items() for i, node in enumerate(_places(tree)) if _change(node)]
    chosen = random.Random(given.seed).sample(found, min(given.number, len(found)))
    for library in PRELOADED:
        importlib.import_module(library)
    killed = 0
    lines = covering(given.tests, {file for file, *_ in chosen})
    for file, number in chosen:
        tree, line, said = mutant(file, number)
        while not (tests := lines[file].get(line)):  # a line in the midst of a statement
            line -= 1
        if "" in tests:
            tests = {test.split("::")[0] for names in lines[file].values() for test in names if test}
        seen = noticed(sorted(tests), Mutated(file, tree), given.limit)
        killed += seen
        if not seen:
            print(f"survived  {said}", flush=True)
    print(f"{killed} of {len(chosen)} noticed, {100 * killed / len(chosen):.0f} %; {len(found)} are possible")


if __name__ == "__main__":
    main()
