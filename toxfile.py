"""tox: environments that have the same libraries share one directory.

tox makes a directory anew for every name that uses it, and installing two gigabytes of libraries, and compiling
what is imported of them, takes a minute. It goes on to make it anew when Python, a dependency or a constraint is
another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tox.plugin import impl
from tox.tox_env.api import ToxEnv
from tox.tox_env.info import Info
from tox.tox_env.python.virtual_env.runner import VirtualEnvRunner
from tox.tox_env.register import ToxEnvRegister


class SharedInfo(Info):
    """What tox notes of a directory, without the name of the environment."""

    @contextmanager
    def compare(self, value: Any, section: str, sub_section: str | None = None) -> Iterator[tuple[bool, Any]]:
        """See Info."""
        if section == ToxEnv.__name__:
            value = {**value, "name": "shared"}
        with super().compare(value, section, sub_section) as found:
            yield found


class SharedRunner(VirtualEnvRunner):
    """tox's own runner, but for the name: `runner = shared`."""

    @staticmethod
    def id() -> str:
        """Return what tox.ini calls it."""
        return "shared"

    @property
    def cache(self) -> Info:
        """See ToxEnv."""
        return SharedInfo(self.env_dir)


@impl
def tox_register_tox_env(register: ToxEnvRegister) -> None:
    """Make the runner known to tox."""
    register.add_run_env(SharedRunner)
