"""Serving a study: one process, one address, stopped without losing what was acknowledged."""

from __future__ import annotations

import gc
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from userstudy.analysis_plan import keep_plan
from userstudy.app.guard import Rules
from userstudy.app.limits import Limit
from userstudy.app.server import create_app
from userstudy.database.engine import open_database
from userstudy.place import Place
from userstudy.study import Study

__all__ = ["serve"]

_SECONDS = 10
"""How long requests in work may take to end when the server is told to stop."""
_KEPT_OUT = shutil.ignore_patterns("*.sqlite*", "secret.key", "admin.json", "analysis")


def serve(
    study: Study,
    place: Place,
    *,
    database: str | None = None,
    kind: str = "human",
    announce: Callable[[str], None],
) -> None:
    """Serve a study until a signal ends it; requests in work are answered first.

    Args:
        study: what is served.
        place: where.
        database: its address; the study's own SQLite file where left out. A preview has its own.
        kind: of those who come: human, simulated or preview.
        announce: called with the page's address, without the last slash, once it can be opened.

    Raises:
        InputError: the port is taken, the host is none of this machine, or the database cannot be opened.
    """
    rules = Rules(
        hosts=place.names,
        frame_ancestors=place.embed or "'none'",
        behind_proxy=bool(place.proxy),
        enrolment=Limit(per_second=place.enrolments / 3600, burst=place.enrolments),
    )
    with place.listen() as listening, _material(study, kind) as served:
        engine = open_database(served, None if kind == "preview" else database)
        try:
            if kind == "human":
                keep_plan(served, engine)
            app = create_app(
                served,
                engine,
                preview=kind == "preview",
                simulated=kind == "simulated",
                rules=rules,
                root_path=place.root_path,
            )
            _lighten()
            _run(_Prefix(app, place.root_path), listening, place, announce)
        finally:
            engine.dispose()


class _Prefix:
    """Takes the root path off an address where the proxy has not done so."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self.app = app
        self.root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request."""
        path = scope.get("path", "")
        if self.root_path and (path + "/").startswith(self.root_path + "/"):
            inner = path.removeprefix(self.root_path) or "/"
            scope = {**scope, "path": inner, "raw_path": inner.encode()}
        await self.app(scope, receive, send)


class _Server(uvicorn.Server):
    """Says when it is ready."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets)
        if self.started:
            self._ready()


def _run(app: ASGIApp, listening: socket.socket, place: Place, announce: Callable[[str], None]) -> None:
    host, port = listening.getsockname()[:2]
    host = socket.gethostname() if host in ("0.0.0.0", "::") else host
    shown = f"[{host}]" if ":" in host else host
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=bool(place.proxy),
        forwarded_allow_ips=place.proxy or None,
        timeout_graceful_shutdown=_SECONDS,
    )
    server = _Server(config, lambda: announce(f"http://{shown}:{port}{place.root_path}"))
    # uvicorn ends gracefully and then sends itself the signal once more, which is to end in clean-up, too.
    previous = signal.signal(signal.SIGTERM, _end)
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, previous)


def _lighten() -> None:
    """Spare every call what has nothing to do with it; see benchmarks/study_load.py."""
    # What is loaded now stays, so the collector need not look through it again and again while people wait.
    gc.collect()
    gc.freeze()
    # Gradio imports matplotlib in every call, and where there is none Python searches for it every time.
    if find_spec("matplotlib") is None:
        sys.modules["matplotlib"] = None  # type: ignore[assignment]


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


@contextmanager
def _material(study: Study, kind: str) -> Iterator[Study]:
    """Give the study itself, or to a preview a copy without participants that is thrown away."""
    if kind != "preview":
        yield study
        return
    with tempfile.TemporaryDirectory(prefix="quantxai-preview-") as folder:
        copy = Path(folder) / "study"
        shutil.copytree(study.path, copy, ignore=_KEPT_OUT)
        yield Study.open(copy)
