"""Where a study is served, and whether it can be served there."""

from __future__ import annotations

import errno
import re
import socket
from dataclasses import dataclass

from quantxai.errors import ConfigError, InputError

__all__ = ["Place"]

_SITE = re.compile(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?")


@dataclass(frozen=True)
class Place:
    """Where a study is served.

    Args:
        host: the address to listen at.
        port: 0 takes any that is free.
        root_path: what the public address has before the page, such as `/study`; empty for nothing.
        proxy: address of the proxy in front whose X-Forwarded headers are believed; empty for none.
        names: host names the server answers to, in lower case; any where empty.
        embed: the site whose pages may hold the participant's page in a frame; empty for none.
        enrolments: sessions that may be begun from one address within an hour.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    root_path: str = ""
    proxy: str = ""
    names: tuple[str, ...] = ()
    embed: str = ""
    enrolments: int = 1000

    def __post_init__(self) -> None:
        if self.root_path and not self.root_path.startswith("/"):
            raise ConfigError(f"--root-path {self.root_path}: begins with a slash, as in /study")
        if self.embed and not _SITE.fullmatch(self.embed):
            raise ConfigError(f"--embed {self.embed}: a site is written as https://survey.example.org")
        if self.root_path.endswith("/"):
            object.__setattr__(self, "root_path", self.root_path.rstrip("/"))

    def listen(self) -> socket.socket:
        """Return a socket at which connections wait until they are served.

        Raises:
            InputError: the port is taken or reserved, or the host is none of this machine.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            return socket.create_server((self.host, self.port), family=family, backlog=2048)
        except OSError as error:
            message = self._refused(error.errno or 0)
            if message is None:
                raise
            raise InputError(message) from None

    def _refused(self, number: int) -> str | None:
        if number == errno.EADDRINUSE:
            return f"port {self.port} is taken, perhaps by another study. Choose another with --port."
        if number == errno.EADDRNOTAVAIL:
            return f"--host {self.host} is not an address of this machine."
        if number == errno.EACCES:
            return f"port {self.port} is reserved for the system. Choose one from 1024 on with --port."
        if number < 0:  # of the resolver
            return f"--host {self.host}: there is no such address. Try 127.0.0.1 or 0.0.0.0."
        return None
