"""Whether Python finds quantxai's own packages, or others of the same names."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from quantxai.errors import InputError

__all__ = ["PACKAGES", "Shadow", "check_own_packages", "shadowed"]

PACKAGES = ("quantizers", "explainers", "userstudy")
"""Installed beside quantxai. The names are generic: other distributions use them too."""


class Shadow(NamedTuple):
    """What is wrong with one package, and what to do."""

    what: str
    remedy: str


def shadowed() -> dict[str, Shadow]:
    """Return those of the packages that are not quantxai's own. Imports none of them."""
    home = Path(__file__).resolve().parent.parent
    found = {}
    for name in PACKAGES:
        place = _place(name)
        if place is None:
            remedy = "install quantxai again: its installation is not complete"
            found[name] = Shadow(f"the package '{name}' of quantxai is not found", remedy)
        elif place != home / name:
            found[name] = Shadow(
                f"the package '{name}' is found in {place}, which hides quantxai's own in {home / name}",
                f"uninstall the distribution it belongs to, rename the folder, or take {place.parent} off "
                "PYTHONPATH (the current directory counts as well)",
            )
    return found


def check_own_packages() -> None:
    """Raise InputError where another package hides one of quantxai's."""
    for shadow in shadowed().values():
        raise InputError(f"{shadow.what}. To do: {shadow.remedy}. See: quantxai doctor")


def _place(name: str) -> Path | None:
    spec = find_spec(name)
    if spec is None:
        return None
    if spec.origin and spec.origin != "namespace":
        origin = Path(spec.origin).resolve()
        return origin.parent if origin.name == "__init__.py" else origin
    locations = list(spec.submodule_search_locations or [])
    return Path(locations[0]).resolve() if locations else None
