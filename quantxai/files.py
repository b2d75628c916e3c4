"""Files that are there in full or not at all, and names that are safe in a path."""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from pathlib import Path
from urllib.parse import quote

from quantxai.errors import OutOfSpace

__all__ = ["remove_leftovers", "safe_name", "write_atomically"]

_FULL_DISK = {errno.ENOSPC, errno.EDQUOT}
_TEMPORARY = re.compile(r"\.(?P<pid>\d+)-[0-9a-f]{8}\.tmp$")


def write_atomically(file: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file that is either there in full or not at all, and survives a power cut.

    Args:
        file: where to; its folder is made.
        content: all of it.
        mode: who may read and write it, less what the umask takes away.

    Raises:
        OutOfSpace: the disk or the quota is full.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb", opener=lambda path, flags: os.open(path, flags, mode)) as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
        _sync_folder(file.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno not in _FULL_DISK:
            raise
        raise OutOfSpace(
            f"no room to write '{file}' ({len(content):,} bytes; {_free(file.parent):,} bytes are free). "
            "Everything stored so far is kept: make room and give the same command again."
        ) from None


def _sync_folder(folder: Path) -> None:
    """Flush a folder's list of names, so that a rename survives a power cut."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that no longer run left half written anywhere under a folder."""
    for file in folder.rglob("*.tmp"):
        match = _TEMPORARY.search(file.name)
        if match and not _alive(int(match["pid"])):
            file.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def safe_name(name: str) -> str:
    """Return a name as one path component: other characters percent-encoded, no leading dot."""
    text = quote(name, safe="")
    return "%2E" + text[1:] if text.startswith(".") else text
