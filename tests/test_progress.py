"""Progress: plain lines are few and timestamped; a terminal is left as it was."""

from __future__ import annotations

import io
import re

import pytest

from quantxai.progress import PlainProgress, TerminalProgress, duration, for_stream

pytestmark = pytest.mark.bare


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_every_ten_seconds_at_most() -> None:
    stream, now = io.StringIO(), [0.0]
    progress = PlainProgress(stream, clock=lambda: now[0])
    progress.start("explaining", 100)
    for _ in range(100):
        now[0] += 1
        progress.advance(1)
    progress.stop()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1 + 10
    assert all(re.match(r"\d\d:\d\d:\d\d explaining: ", line) for line in lines)
    assert lines[1].endswith("explaining: 10 of 100, about 2 min left")
    assert lines[-1].endswith("explaining: 100 of 100")


def test_events_are_always_told() -> None:
    stream = io.StringIO()
    with PlainProgress(stream, clock=lambda: 0.0) as progress:
        for text in ("one", "two"):
            progress.line(text)
        progress.start("scoring", 0)
    assert [line[9:] for line in stream.getvalue().splitlines()] == ["one", "two", "scoring: nothing to do"]


def test_the_stream_decides() -> None:
    assert isinstance(for_stream(io.StringIO()), PlainProgress)
    assert isinstance(for_stream(Terminal()), TerminalProgress)


def test_a_terminal_shows_lines_above_the_bar_and_is_given_back() -> None:
    stream = Terminal()

    def interrupted() -> None:
        with TerminalProgress(stream) as progress:
            progress.line("gptq-4: quantizing [1/2]")
            progress.start("explaining", 8)
            progress.advance(4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    text = stream.getvalue()
    assert "gptq-4: quantizing [1/2]" in text
    assert "4/8" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")  # the cursor is shown again


def test_stages_follow_each_other() -> None:
    progress = TerminalProgress(Terminal())
    for what in ("explaining", "scoring"):
        progress.start(what, 2)
        progress.advance(2)
    progress.stop()
    progress.advance(1)  # late news of a stage that is over
    assert not progress._bar.tasks


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (7500, "2 h 5 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
