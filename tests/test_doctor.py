"""The doctor: finds what is missing, broken or hidden, and says what to do about it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quantxai import doctor, installation, machine
from quantxai.cli import app
from quantxai.doctor import Check, examine
from quantxai.errors import InputError
from quantxai.installation import PACKAGES, check_own_packages, shadowed

pytestmark = pytest.mark.bare


@pytest.fixture(autouse=True)
def everything_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine lacks: the tests take away one thing at a time."""
    monkeypatch.setattr("shutil.which", lambda name, path=None: f"/bin/{name}")
    monkeypatch.setattr(machine, "gpus", lambda: ())
    monkeypatch.setattr(doctor, "packages_distributions", dict)  # takes a second
    monkeypatch.setattr(machine, "has_packages", lambda names: [])
    monkeypatch.setattr(doctor, "_import_errors", lambda names: {})


def check(name: str) -> Check:
    (found,) = [c for c in examine() if c.name == name]
    return found


def test_all_is_well() -> None:
    checks = list(examine())
    assert [c for c in checks if c.state in ("missing", "broken")] == []
    names = {c.name for c in checks}
    assert {f"package {name}" for name in ("quantxai", *PACKAGES)} <= names
    assert {"torch", "gptqmodel", "C++ compiler", "ninja", "cache", "GPUs", "model smollm2-135m"} <= names
    assert all(c.remedy for c in checks if c.state != "ok")


def test_a_missing_package_names_its_users_and_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_packages", lambda names: [n for n in names if n == "gptqmodel"])
    found = check("gptqmodel")
    assert (found.state, found.needed) == ("missing", True)
    assert "awq, gptq" in found.detail
    assert '".[models]"' in found.remedy


def test_a_package_that_does_not_import_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_import_errors", lambda names: {"torchao": "ImportError: no symbol"})
    found = check("torchao")
    assert found.state == "broken"
    assert "no symbol" in found.detail
    assert "constraints.txt" in found.remedy


def test_a_missing_compiler_says_who_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    for name in ("C++ compiler", "ninja"):
        found = check(name)
        assert found.state == "missing"
        assert "GPTQ and AWQ" in found.detail
        assert "install" in found.remedy


def test_little_memory_and_a_full_disk_are_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_bytes", lambda: 2 * 2**30)
    monkeypatch.setattr(doctor, "_DISK_GB", 10**9)
    assert check("cores and memory").state == "warning"
    assert check("cache").state == "warning"
    assert "QUANTXAI_CACHE" in check("cache").remedy


@pytest.mark.parametrize(("dtype", "word"), [("bfloat16", "has"), ("float32", "does not have")])
def test_what_auto_means_here_is_said(dtype: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "default_dtype", lambda device: dtype)
    assert f"{word} bfloat16 instructions" in check("compute type").detail
    assert f"is {dtype}" in check("compute type").detail


def test_the_exit_code_tells_whether_the_default_sweep_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0
    # A quantizer of another distribution may be broken: no default variant uses it.
    fine = Check(name="x", state="broken", detail="d", remedy="r", needed=False)
    monkeypatch.setattr(doctor, "examine", lambda quick: iter([fine]))
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0
    bad = fine.model_copy(update={"needed": True})
    monkeypatch.setattr(doctor, "examine", lambda quick: iter([bad]))
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "-> r" in done.stdout


def test_json_holds_every_check() -> None:
    found = json.loads(CliRunner().invoke(app, ["doctor", "--quick", "--json"]).stdout)
    assert {"name", "state", "detail", "remedy", "needed"} == set(found[0])


# The real import, with modules made for it


@pytest.fixture
def import_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, str]], dict[str, str]]:
    def run(modules: dict[str, str]) -> dict[str, str]:
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return REAL_IMPORT_ERRORS(list(modules))

    return run


REAL_IMPORT_ERRORS = doctor._import_errors


def test_packages_are_really_imported(import_errors: Callable[[dict[str, str]], dict[str, str]]) -> None:
    found = import_errors(
        {
            "fine_one": "print('chatter')",
            "bad_one": "raise ImportError('no\\nlib')",
            "fine_two": "",
            "exits": "exit(3)",
        }
    )
    assert found == {"bad_one": "ImportError: no", "exits": "SystemExit: 3"}


def test_a_package_that_kills_its_process_is_found(
    import_errors: Callable[[dict[str, str]], dict[str, str]],
) -> None:
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    assert import_errors({"fine_one": "", "crashes": crash, "never_tried": ""}) == {
        "crashes": "importing it ended the process with signal SIGSEGV"
    }


# Packages of the same name


def test_the_packages_are_our_own() -> None:
    assert shadowed() == {}
    check_own_packages()


@pytest.mark.parametrize("form", ["package", "module", "namespace"])
def test_a_package_of_the_same_name_is_found(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / ("quantizers.py" if form == "module" else "quantizers")
    if form == "module":
        other.write_text("")
    else:
        other.mkdir()
        if form == "package":
            (other / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "quantizers", raising=False)
    if form == "namespace":  # a mere folder hides no package that is on the path itself, however late
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parent.parent)])
        assert shadowed() == {}
        return
    assert list(shadowed()) == ["quantizers"]
    with pytest.raises(InputError, match="quantxai doctor") as caught:
        check_own_packages()
    assert str(other) in str(caught.value)
    assert check("package quantizers").state == "broken"


def test_a_package_that_is_not_there_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_place", lambda name: None)
    assert set(shadowed()) == set(PACKAGES)
    with pytest.raises(InputError, match="is not found"):
        check_own_packages()


def test_two_distributions_in_one_package_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = {"explainers": ["quantxai", "somebody"]}
    monkeypatch.setattr(doctor, "packages_distributions", lambda: owners)
    found = check("package explainers")
    assert found.state == "broken"
    assert "somebody" in found.detail
    assert "pip uninstall somebody" in found.remedy
