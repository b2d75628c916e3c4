"""Progress for whoever watches: a bar on a terminal, timestamped lines in a log. Always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from types import TracebackType
from typing import Any, TextIO

__all__ = ["PlainProgress", "TerminalProgress", "duration", "for_stream"]

_SECONDS_BETWEEN_LINES = 10.0


def for_stream(stream: TextIO | None = None) -> PlainProgress | TerminalProgress:
    """Return the progress that fits a stream; stderr where none is given. Use it in a `with` block."""
    stream = stream or sys.stderr
    return TerminalProgress(stream) if stream.isatty() else PlainProgress(stream)


class PlainProgress(AbstractContextManager["PlainProgress"]):
    """One timestamped line per event, and at most one in ten seconds about how far a stage is.

    Args:
        stream: where lines go.
        clock: seconds that only grow.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._what, self._total, self._done = "", 0, 0
        self._started = self._last = 0.0

    def __exit__(self, kind: Any, error: Any, trace: TracebackType | None) -> None:
        """Nothing is left open."""

    def line(self, text: str) -> None:
        """See quantxai.run.Progress."""
        print(f"{datetime.now():%H:%M:%S} {text}", file=self._stream, flush=True)

    def start(self, what: str, total: int) -> None:
        """See quantxai.run.Progress."""
        self._what, self._total, self._done = what, total, 0
        self._started = self._last = self._clock()
        self.line(f"{what}: {total} to do" if total else f"{what}: nothing to do")

    def advance(self, units: int) -> None:
        """See quantxai.run.Progress."""
        self._done += units
        now = self._clock()
        if now - self._last < _SECONDS_BETWEEN_LINES and self._done < self._total:
            return
        self._last = now
        share = f"{self._what}: {self._done} of {self._total}"
        if 0 < self._done < self._total:
            share += (
                f", about {duration((now - self._started) / self._done * (self._total - self._done))} left"
            )
        self.line(share)

    def stop(self) -> None:
        """See quantxai.run.Progress."""
        self._what = ""


class TerminalProgress(AbstractContextManager["TerminalProgress"]):
    """A bar with units done, time passed and time left; lines scroll by above it.

    Args:
        stream: the terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("in"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(file=stream),
            # Cells take from a second to minutes: a short memory would make the time left jump.
            speed_estimate_period=900,
            refresh_per_second=4,
            transient=True,
        )
        self._task: Any = None

    def __enter__(self) -> TerminalProgress:
        """Draw."""
        self._bar.start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: TracebackType | None) -> None:
        """Leave the terminal as it was, whatever happened."""
        self._bar.stop()

    def line(self, text: str) -> None:
        """See quantxai.run.Progress."""
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def start(self, what: str, total: int) -> None:
        """See quantxai.run.Progress."""
        self.stop()
        if total:
            self._task = self._bar.add_task(what, total=total)

    def advance(self, units: int) -> None:
        """See quantxai.run.Progress."""
        if self._task is not None:
            self._bar.advance(self._task, units)

    def stop(self) -> None:
        """See quantxai.run.Progress."""
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


def duration(seconds: float) -> str:
    """Return a time span as people say it: `40 s`, `3 min`, `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
