"""How commands speak: data to stdout, everything else to stderr, and no traceback for what is expected."""

from __future__ import annotations

import errno
import functools
import json
import os
import shlex
import shutil
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import typer

from quantxai.errors import OutOfSpace, QuantxaiError

__all__ = [
    "DEFECT",
    "INTERRUPTED",
    "columns",
    "complain",
    "interval",
    "paired",
    "presented",
    "print_json",
    "signed",
    "size",
    "wrapped",
]

INTERRUPTED = 130
DEFECT = 70
_BROKEN_PIPE = 141
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOENT}

P = ParamSpec("P")
R = TypeVar("R")


def presented(command: Callable[P, R]) -> Callable[P, R]:
    """Make a command end with one message and an exit code, whatever it raises."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except QuantxaiError as error:
            complain(str(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            complain(_interrupted("out" in kwargs), kind="interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except OSError as error:
            raise typer.Exit(_explain_os_error(error, _run_directory(kwargs))) from None
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            _report_defect(error, _run_directory(kwargs))
            raise typer.Exit(DEFECT) from None

    return run


def complain(message: str, kind: str = "error") -> None:
    """Print a message to stderr, as every command does."""
    typer.echo(f"quantxai: {kind}: {message}", err=True)


def print_json(value: Any) -> None:
    """Print data as JSON to stdout."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return rows in columns, the first row as the heading.

    Args:
        rows: texts; all rows are equally long.
        right: columns aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def wrapped(text: str, indent: int, first: str = "") -> str:
    """Return text wrapped to the terminal, led by `first` and otherwise indented."""
    width = max(60, min(110, shutil.get_terminal_size((100, 24)).columns))
    lead = first.ljust(indent)
    if len(lead) > indent or (first and not lead.endswith(" ")):
        return f"{lead.rstrip()}\n" + textwrap.fill(
            text, width, initial_indent=" " * indent, subsequent_indent=" " * indent
        )
    return textwrap.fill(text, width, initial_indent=lead, subsequent_indent=" " * indent)


def signed(value: float | None) -> str:
    """Return a difference with its sign, empty where there is none."""
    if value is None:
        return ""
    return f"{value:+.3f}" if value == 0 or 0.001 <= abs(value) < 100 else f"{value:+.4g}"


def interval(low: float | None, high: float | None) -> str:
    """Return an interval of a difference, empty where there is none."""
    return "" if low is None or high is None else f"{signed(low)} to {signed(high)}"


def paired(n: int, missing: int) -> str:
    """Return how many items were compared: `13 of 16` where some lack a value."""
    return f"{n} of {n + missing}" if missing else str(n)


def size(count: float) -> str:
    """Return a number of bytes as people read it."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _interrupted(resumable: bool) -> str:
    if not resumable:
        return "stopped before it was done"
    command = shlex.join(["quantxai", *sys.argv[1:]])
    return f"what was computed is kept. Resume by giving the same command again:\n  {command}"


def _run_directory(arguments: dict[str, Any]) -> Path | None:
    given = arguments.get("out") or arguments.get("run")
    return Path(given) if given and Path(given).is_dir() else None


def _explain_os_error(error: OSError, run: Path | None) -> int:
    if error.errno == errno.EPIPE:
        # Whoever read stdout is gone (| head): nothing is wrong, and the flush at exit must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    if error.errno in _FULL_DISK:
        where = f" ({error.filename})" if error.filename else ""
        complain(
            f"the disk is full{where}. Everything stored so far is kept: make room and give the same "
            "command again."
        )
        return OutOfSpace.exit_code
    if error.errno in _REFUSED and error.filename is not None:
        complain(f"'{error.filename}': {error.strerror}")
        return 2
    _report_defect(error, run)
    return DEFECT


def _report_defect(error: BaseException, run: Path | None) -> None:
    text = "".join(traceback.format_exception(error))
    heading = f"{datetime.now():%Y-%m-%d %H:%M:%S} {shlex.join(['quantxai', *sys.argv[1:]])}\n"
    try:
        folder = run if run is not None else Path(tempfile.gettempdir())
        file = folder / ("log.txt" if run is not None else f"quantxai-{os.getpid()}.log")
        with file.open("a", encoding="utf-8") as stream:
            stream.write(f"{heading}{text}\n")
        where = f"Its traceback is at the end of '{file}'"
    except OSError:
        where = "Its traceback could not be written anywhere"
    first = (str(error).splitlines() or [""])[0]
    complain(
        f"{type(error).__name__}: {first}\nThis is a defect in quantxai. {where}; please report it.",
        kind="unexpected error",
    )
