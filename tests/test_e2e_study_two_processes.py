"""Two processes serve one study behind a proxy that takes them in turn; the database goes and returns."""

from __future__ import annotations

import http.client
import itertools
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from study_browser import Server, Visitor
from study_support import make_study

pytest.importorskip("gradio")

pytestmark = pytest.mark.e2e

AWAY = "We cannot reach the study's memory just now. Nothing you saved is lost. We try again by ourselves."
UNSAVED = "Not saved yet. We keep trying, and your answers are safe on this page."


class Proxy:
    """Passes every request to the next of its servers; 502 where that one is down."""

    def __init__(self, *servers: Server) -> None:
        self.servers = servers
        self.calls: Counter[int] = Counter()
        turns = itertools.cycle(range(len(servers)))

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.passed(None)

            def do_POST(self) -> None:
                self.passed(self.rfile.read(int(self.headers["Content-Length"])))

            def passed(handler, body: bytes | None) -> None:  # noqa: N805
                turn = next(turns)
                connection = http.client.HTTPConnection("127.0.0.1", servers[turn].port, timeout=30)
                try:
                    connection.request(handler.command, handler.path, body, dict(handler.headers))
                    answer = connection.getresponse()
                    status, headers, content = answer.status, answer.getheaders(), answer.read()
                except (OSError, http.client.HTTPException):
                    status, headers, content = 502, [], b""
                self.calls[turn] += handler.command == "POST" and status == 200
                handler.send_response(status)
                for name, value in headers:
                    if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                        handler.send_header(name, value)
                handler.send_header("Content-Length", str(len(content)))
                handler.end_headers()
                handler.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._listening.daemon_threads = True
        self.port = self._listening.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.stored = servers[0].stored
        threading.Thread(target=self._listening.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._listening.shutdown()
        self._listening.server_close()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[Proxy]:
    path = make_study(tmp_path_factory.mktemp("two") / "study").path
    started: list[Server] = []
    # Both at once: the second finds a database that the first is making.
    threads = [threading.Thread(target=lambda: started.append(Server(path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 2
    made = Proxy(*started)
    yield made
    made.stop()
    for server in started:
        server.stop()


@pytest.fixture
def visitor(browser: Any, proxy: Proxy) -> Iterator[Visitor]:
    opened = Visitor(browser, proxy)  # type: ignore[arg-type]
    yield opened
    opened.close()


def answers(proxy: Proxy) -> list[tuple[Any, ...]]:
    """Of the participant who came last: page, question and answer, in the order of saving."""
    return proxy.stored(
        "SELECT trials.position, question, value FROM answers JOIN trials ON trials.id = trial_id "
        "WHERE answers.participant_id = (SELECT max(id) FROM participants) ORDER BY answers.id"
    )


def test_a_session_goes_through_both_and_survives_one_of_them(visitor: Visitor, proxy: Proxy) -> None:
    visitor.begin()
    for page in range(8):
        if page == 3:
            proxy.servers[0].stop(signal.SIGKILL)
        visitor.rate(page % 7 + 1)
        visitor.saved()
        if page == 5:
            proxy.servers[0].start()
            visitor.page.reload()
            visitor.page.wait_for_selector("gradio-app #study [data-form=rating]")
        visitor.go_on()

    assert visitor.page.locator("output").inner_text()
    asked = Counter((page, value) for page, _, value in answers(proxy))
    assert asked.keys() == {(page, str(page % 7 + 1)) for page in range(8)}
    assert proxy.stored("SELECT count(*) FROM answers GROUP BY participant_id, trial_id, question") == [
        (1,)
    ] * sum(asked.values())
    assert min(proxy.calls.values()) > 5
    assert proxy.stored("SELECT status FROM participants") == [("completed",)]


def test_a_database_that_is_taken_away_and_put_back(visitor: Visitor, proxy: Proxy) -> None:
    visitor.begin()
    visitor.rate(2)
    visitor.saved()
    file = proxy.servers[0].study / "study.sqlite"
    away = file.with_name("elsewhere.sqlite")

    file.rename(away)
    visitor.rate(5)
    banner = visitor.page.locator(".away")
    banner.wait_for()
    assert banner.inner_text() in (AWAY, UNSAVED)
    other = visitor.page.context.new_page()
    other.goto(f"{proxy.url}?t={visitor.token}")
    assert "One moment, please" in other.inner_text("main")  # the kind page, whichever process answers
    assert not file.exists()
    away.rename(file)

    other.wait_for_selector("text=Page 1 of")  # and goes on by itself, as it says
    other.close()
    visitor.saved()
    assert {(page, value) for page, _, value in answers(proxy)} == {(0, "2"), (0, "5")}
    assert [value for _, _, value in answers(proxy)].count("5") == 2
    visitor.go_on()


def test_a_database_that_somebody_locks(visitor: Visitor, proxy: Proxy) -> None:
    visitor.begin()
    lock = sqlite3.connect(proxy.servers[0].study / "study.sqlite", isolation_level=None, timeout=30)
    lock.execute("BEGIN EXCLUSIVE")

    visitor.rate(6)
    banner = visitor.page.locator(".away")
    banner.wait_for(timeout=40_000)
    assert banner.inner_text() in (AWAY, UNSAVED)
    other = visitor.page.context.new_page()
    other.goto(f"{proxy.url}?t={visitor.token}")
    assert "Page 1 of" in other.inner_text("main")  # reading goes on
    other.close()
    lock.execute("ROLLBACK")
    lock.close()

    visitor.page.wait_for_function(
        "document.querySelector('.saved').dataset.state === 'saved'", timeout=40_000
    )
    assert [value for _, _, value in answers(proxy)] == ["6", "6"]
