"""Fixtures shared by all tests: one tiny trained model, and a cache that is not the user's."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
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


def pytest_sessionfinish() -> None:
    """Let libraries take down at exit what they set up; some complain otherwise."""
    gc.unfreeze()


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


def benchmark(name: str) -> ModuleType:
    """Return a script of benchmarks/ as a module."""
    folder = str(Path(__file__).parents[1] / "benchmarks")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)
