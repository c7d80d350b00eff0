"""Fault matrices are tables of tests: here they are held against the tests that there are."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path

TESTS = Path(__file__).parent


def missing_tests(table: Mapping[str, Sequence[str]], folder: str) -> list[str]:
    """Those that a table names as `file:function` or `folder/file:function`, without `test_`, and that do not exist."""
    missing = []
    for row, tests in table.items():
        for test in tests:
            file, _, name = test.partition(":")
            elsewhere, _, module = file.rpartition("/")
            path = TESTS / (elsewhere or folder) / f"test_{module}.py"
            tree = ast.parse(path.read_text()) if path.exists() else ast.Module([], [])
            nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
            if f"test_{name}" not in {node.name for node in nodes}:
                missing.append(f"{row}: {test}")
    return missing
