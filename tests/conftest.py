"""Fixtures shared by all tests: one tiny trained model, and a cache that is not the user's."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache as cached
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.testing
from filelock import FileLock

# Read when torch and gptqmodel are imported, so they are set before any test imports them.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

REAL_ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
"""What a user's shell has, with the cache that tox or the user names: for e2e and docs tests."""

# Without the extra `study`, as in tox's bare environment, there is no study to test.
collect_ignore_glob = [] if importlib.util.find_spec("sqlalchemy") else ["*study*"]

if "PYTEST_XDIST_WORKER" in os.environ:
    # The cores are shared out among the workers already; more threads only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# `CliRunner.invoke` would make the command line anew each time, from the source of every command.
typer.testing._get_command = cached(typer.testing._get_command)  # type: ignore[attr-defined]


def pytest_sessionfinish() -> None:
    """Let libraries take down at exit what they set up; some complain otherwise."""
    gc.unfreeze()


def chromium() -> str:
    """Return the path of a browser; where there is none, skip, but fail in continuous integration."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        assert not os.environ.get("CI"), "continuous integration must install chromium"
        pytest.skip("chromium is not installed")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real browser, driven by Playwright."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        assert not os.environ.get("CI"), "continuous integration must install playwright"
        pytest.skip("playwright is not installed")
    path = chromium()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module", autouse=True)
def spared() -> None:
    """Spare the garbage collector what is there already, such as torch and all that it imports.

    Holm's correction in statsmodels asks for a full collection each time.
    """
    gc.collect()
    gc.freeze()


def _shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all pytest-xdist workers of one session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """quantxai's cache during tests, shared by the whole session; never the user's own."""
    directory = _shared(tmp_path_factory) / "quantxai-cache"
    os.environ["QUANTXAI_CACHE"] = str(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the tiny trained model (see tiny.py), made once a session."""
    pytest.importorskip("torch")
    import tiny

    directory = _shared(tmp_path_factory) / "tiny-llama"
    with FileLock(directory.with_suffix(".lock")):
        if not (directory / "tokenizer.json").is_file():  # written last
            tiny.build(directory)
    return directory


@pytest.fixture(scope="session")
def default_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the default sweep was run as a newcomer would, with few items, once a session."""
    folder = _shared(tmp_path_factory) / "default-sweep"
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "runs" / "default" / "report.html").is_file():
            folder.mkdir(exist_ok=True)
            command = [sys.executable, "-m", "quantxai", "sweep", "--n", "2"]
            done = subprocess.run(
                command, cwd=folder, env=REAL_ENVIRONMENT, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return folder


def benchmark(name: str) -> ModuleType:
    """Return a script of benchmarks/ as a module."""
    folder = str(Path(__file__).parents[1] / "benchmarks")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)
