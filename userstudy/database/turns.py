"""One at a time, in the order of asking."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

__all__ = ["Turns"]


class Turns:
    """A lock that is handed from one thread to the one that has waited longest.

    Python's own locks, and SQLite's, go to whoever asks at the right moment: under load some wait for very
    long while others come again and again.
    """

    def __init__(self) -> None:
        self._guard = Lock()
        self._taken = False
        self._waiting: deque[Lock] = deque()

    @contextmanager
    def turn(self, seconds: float) -> Iterator[None]:
        """Wait for the lock, and hold it during the block.

        Raises:
            TimeoutError: it was not free for so many seconds.
        """
        self._acquire(seconds)
        try:
            yield
        finally:
            with self._guard:
                self._pass_on()

    def _acquire(self, seconds: float) -> None:
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            mine = Lock()
            mine.acquire()
            self._waiting.append(mine)
        if mine.acquire(timeout=seconds):
            return
        with self._guard:
            if mine in self._waiting:
                self._waiting.remove(mine)
            else:
                self._pass_on()  # it came in the moment of giving up
        raise TimeoutError

    def _pass_on(self) -> None:
        if self._waiting:
            self._waiting.popleft().release()
        else:
            self._taken = False
