"""The arrows between the four packages, and what may be imported when."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("quantxai", "quantizers", "explainers", "userstudy")
ALLOWED = {package: {package, "quantxai"} for package in PACKAGES}
"""Which of the four packages each may import."""
LAZY_STUDY = "quantxai/commands/study/"
"""The command line may import userstudy, inside the functions of its study commands."""
HEAVY = {
    "torch",
    "transformers",
    "gradio",
    "ray",
    "gptqmodel",
    "bitsandbytes",
    "torchao",
    "vllm",
    "accelerate",
    "triton",
}
"""Imported where they are used, never at a module's top."""
MAY_BE_HEAVY = {
    f"quantxai/{name}.py"
    for name in (
        "anatomy",
        "caches",
        "engine",
        "generation",
        "hooks",
        "internals",
        "norms",
        "paths",
        "projections",
        "readout",
        "traces",
        "values",
        "_preload",
    )
} | {
    f"explainers/{name}.py"
    for name in (
        "added_directions",
        "attribution",
        "log_sum_exp",
        "log_sum_exp_kernel",
        "multi_hop_measures",
        "query_neurons",
    )
}

FILES = sorted(f.relative_to(ROOT).as_posix() for p in PACKAGES for f in (ROOT / p).rglob("*.py"))


class Imports(ast.NodeVisitor):
    """Top-level names of all imports, and whether each runs when the module is imported."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.found: list[tuple[str, bool]] = []
        self._deep = 0

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [(name.name.partition(".")[0], not self._deep) for name in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        name = self.package if node.level else (node.module or "").partition(".")[0]
        self.found.append((name, not self._deep))

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._deep += 1
        self.generic_visit(node)
        self._deep -= 1

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_If(self, node: ast.If) -> None:
        typing_only = ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        self._deep += typing_only
        for child in node.body:
            self.visit(child)
        self._deep -= typing_only
        for child in node.orelse:
            self.visit(child)


def imports(source: str, package: str) -> list[tuple[str, bool]]:
    visitor = Imports(package)
    visitor.visit(ast.parse(source))
    return visitor.found


def wrong_arrows(file: str, source: str) -> Iterator[str]:
    package = file.partition("/")[0]
    for name, at_import in imports(source, package):
        if name not in PACKAGES or name in ALLOWED[package]:
            continue
        if name == "userstudy" and file.startswith(LAZY_STUDY) and not at_import:
            continue
        yield f"{file} imports {name}"


def heavy_imports(file: str, source: str) -> Iterator[str]:
    for name, at_import in imports(source, file.partition("/")[0]):
        if at_import and name in HEAVY and file not in MAY_BE_HEAVY and not file.startswith("userstudy/app/"):
            yield f"{file} imports {name} at its top"


def test_there_is_something_to_check() -> None:
    assert {f.partition("/")[0] for f in FILES} == set(PACKAGES)
    assert len(FILES) > 30


def test_imports_go_one_way() -> None:
    assert not [wrong for file in FILES for wrong in wrong_arrows(file, (ROOT / file).read_text())]


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    assert not [heavy for file in FILES for heavy in heavy_imports(file, (ROOT / file).read_text())]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("quantizers/x.py", "from explainers.labels import judge"),
        ("quantizers/x.py", "def f():\n    import userstudy.app"),
        ("explainers/x.py", "import os, quantizers"),
        (
            "explainers/scorers/x.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import quantizers",
        ),
        ("userstudy/x.py", "from quantizers import gptq"),
        ("quantxai/x.py", "import quantizers"),
        ("quantxai/x.py", "def f():\n    from explainers import labels"),
        ("quantxai/engine.py", "import userstudy"),
        ("quantxai/cli.py", "import userstudy"),
        ("quantxai/run.py", "def f():\n    import userstudy"),
    ],
)
def test_a_wrong_arrow_is_found(file: str, source: str) -> None:
    assert list(wrong_arrows(file, source))


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("quantizers/x.py", "import quantxai.methods\nfrom quantizers.gptq import GPTQ\nfrom . import awq"),
        ("explainers/x.py", "from .labels import judge\nimport torch_like"),
        ("quantxai/commands/study/new.py", "def new():\n    import userstudy"),
        ("quantxai/x.py", "from quantxai import quantizers_of_mine"),
    ],
)
def test_a_right_arrow_is_let_through(file: str, source: str) -> None:
    assert not list(wrong_arrows(file, source))


def test_a_heavy_import_is_found_unless_it_is_lazy() -> None:
    lazy = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\ndef f():\n    import torch"

    assert list(heavy_imports("quantxai/x.py", "import torch.nn"))
    assert list(heavy_imports("quantizers/x.py", "class A:\n    from transformers import AutoModel"))
    assert list(heavy_imports("quantxai/x.py", "try:\n    import gradio\nexcept ImportError:\n    pass"))
    assert list(heavy_imports("quantxai/x.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import torch"))
    assert not list(heavy_imports("quantxai/x.py", lazy))


def test_planning_imports_no_heavy_library() -> None:
    """The graph of imports, not only each file: what `quantxai sweep --dry-run` loads."""
    code = (
        "import sys, quantxai.run, quantxai.registry as r\n"
        "for kind in ('quantizer', 'explainer', 'scorer'): r.methods(kind)\n"
        f"print(sorted(set(sys.modules) & {HEAVY!r}))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout.strip() == "[]"
