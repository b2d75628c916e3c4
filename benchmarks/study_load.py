"""Does a served study hold 200 people at once: 20 pages each, 5 answers a page, SQLite, one server process?

Every client does what the page does, over HTTP: opens the page, consents, passes the check, gives five
answers a page one by one, turns pages, finishes. Twice: once in peace, once with the server killed by
SIGKILL when half of the answers are in, and started again. Afterwards the database is held against what
the server had told its clients: every acknowledged answer is there once, nothing else is, and every page's
time is counted once.

Times are what a participant waits, from sending until the server has it, repetitions included. Clients run
on the same cores as the server. Beside it, two floors on the same machine: one answer and one commit a
transaction in SQLite with the same pragmas, and a bare Starlette that reads and returns the same JSON, under
as many clients.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from quantxai.records import digest
from userstudy.client import Client
from userstudy.design import draw_design
from userstudy.records import Origin, Part, Stimulus
from userstudy.settings import StudySettings
from userstudy.study import Study

QUESTIONS = ("understandability", "coherence", "sufficiency", "trustworthiness", "overall")
SECONDS_A_PAGE = 25.0
"""A quick reader's time on a page of five questions; --compressed makes it shorter."""


def made_up(path: Path, participants: int, pages: int) -> Study:
    """Write a study of so many pages, three variants, one question of the check."""
    texts = {"title": "Load", "consent": "Yes?", "instructions": "Rate."}
    asked = "\n".join(
        f'[[questions]]\nid = "{q}"\nkind = "likert"\ntext = "How is its {q}?"' for q in QUESTIONS
    )
    told = "\n".join(f'{name} = "{text}"' for name, text in texts.items())
    (path / "study.toml").write_text(
        f'name = "load"\nlanguages = ["en"]\n[texts]\n{told}\n{asked}\n'
        '[[check]]\nquestion = "Rate what?"\noptions = ["Texts", "Pictures"]\nanswer = 0\n'
        f"[design]\nitems = {pages}\nper_participant = {pages}\nrepeats = 0\nattention_checks = 0\n"
        f"[recruitment]\nparticipants = {participants}\n"
    )
    study = Study(path)
    stimuli = tuple(_stimulus(item, variant) for item in range(pages) for variant in ("full", "int8", "nf4"))
    origin = Origin(
        run="load", manifest_digest=digest("load"), quantxai_version="0", created="2026-01-01T00:00:00+00:00",
        model="none", drawn=pages, eligible=pages, left_out={},
    )  # fmt: skip
    settings = StudySettings.model_validate(study.settings.model_dump())
    study.write(stimuli, draw_design(stimuli, settings), origin)
    return Study.open(path)


def _stimulus(item: int, variant: str) -> Stimulus:
    name = digest([item, variant])[:12]
    sentence = "Two dogs run through high grass while a child throws a ball for them to catch. "
    return Stimulus(
        id=name, item=f"natural_language/inference/{item}", group=str(item), explainer="natural_language",
        dataset="inference", variant=variant, label="neutral", outcome="correct",
        parts=(Part(name="text", text=sentence * 3), Part(name="explanation", text=f"{sentence * 2}{name}")),
    )  # fmt: skip


class Server:
    """The study's server, a process of its own.

    Args:
        study: what it serves.
    """

    def __init__(self, study: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._study = study
        self.core_seconds = 0.0

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "quantxai", "study", "serve", str(self._study)]
        self._log = (self._study / "server.log").open("a")
        self._process = subprocess.Popen(
            [*command, "--port", str(self.port), "--simulated"], stdout=self._log, stderr=self._log
        )
        until = time.monotonic() + 120
        while time.monotonic() < until:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(self.url, timeout=10).status_code == 200:
                    self.core_seconds -= self._used()  # starting counts for nothing
                    return
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        raise SystemExit(f"the server did not start: {(self._study / 'server.log').read_text()[-2000:]}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, and add up what it has used."""
        self.core_seconds += self._used()
        self._process.send_signal(how)
        self._process.wait(30)
        self._log.close()

    def _used(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Visitor:
    """One participant who answers at random."""

    def __init__(self, http: httpx.AsyncClient, times: dict[str, list[float]], page_seconds: float) -> None:
        self.client = Client(http, patience=300, observe=lambda what, seconds: times[what].append(seconds))
        self.page_seconds = page_seconds
        self.pages: dict[int, float] = {}

    async def take_part(self) -> None:
        """From consent to the completion code."""
        client = self.client
        await asyncio.sleep(random.uniform(0, self.page_seconds))
        await client.open()
        await client.enrol("en", "desktop")
        await client.call("start")
        await client.call("check", answers=[0])
        while client.page["stage"] == "rating":
            position, seconds = client.page["position"], round(random.uniform(5, 60), 2)
            for question in QUESTIONS:
                await asyncio.sleep(self.page_seconds / len(QUESTIONS) * random.lognormvariate(0, 0.5))
                await client.answer(question, str(random.randint(1, 7)))
            if position + 1 < client.page["pages"]:
                await client.turn(position, position + 1, seconds)
            else:
                await client.call("finish", seconds=seconds)
            self.pages[position] = seconds


async def crowd(
    server: Server, options: argparse.Namespace, killed: bool
) -> tuple[list[Visitor], dict[str, Any]]:
    """Let everyone take part at once; return them and what was measured."""
    times: dict[str, list[float]] = defaultdict(list)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    begun, own = time.perf_counter(), time.process_time()
    down = 0.0
    async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60) as http:
        visitors = [Visitor(http, times, options.page_seconds) for _ in range(options.participants)]
        tasks = [asyncio.ensure_future(visitor.take_part()) for visitor in visitors]
        if killed:
            half = options.participants * options.pages * len(QUESTIONS) // 2
            while sum(len(visitor.client.acknowledged) for visitor in visitors) < half:
                await asyncio.sleep(0.05)
            down = time.perf_counter()
            server.stop(signal.SIGKILL)
            await asyncio.to_thread(server.start)
            down = time.perf_counter() - down
        await asyncio.gather(*tasks)
    wall = time.perf_counter() - begun
    requests = sum(map(len, times.values()))
    measured = {
        "seconds": round(wall, 1),
        "requests": requests,
        "requests_per_second": round(requests / wall, 1),
        "client_core_ms_per_request": round(1000 * (time.process_time() - own) / requests, 2),
        **({"down_seconds": round(down, 1)} if killed else {}),
        "milliseconds": {
            what: _percentiles(times[what]) for what in ("open", "enrol", "answer", "turn", "finish")
        },
    }
    return visitors, measured


def _percentiles(seconds: list[float]) -> dict[str, float]:
    found = 1000 * np.percentile(seconds, [50, 95, 99, 100])
    return dict(zip(("p50", "p95", "p99", "most"), np.round(found, 1).tolist(), strict=True))


def audit(study: Path, visitors: list[Visitor]) -> dict[str, int]:
    """Hold the database against what clients were told; all but the counts should be 0."""
    database = sqlite3.connect(study / "study.sqlite")
    rows = database.execute(
        "SELECT a.key, a.question, a.value, t.position FROM answers a JOIN trials t ON t.id = a.trial_id"
    ).fetchall()
    stored: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for key, *rest in rows:
        stored[key].append(tuple(rest))
    told = [answer for visitor in visitors for answer in visitor.client.acknowledged]
    as_told = {a.key: (a.question, a.value, a.position) for a in told}
    left = database.execute(
        "SELECT t.position, round(t.seconds, 2), count(*) FROM trials t GROUP BY 1, 2"
    ).fetchall()
    expected: dict[tuple[int, float], int] = defaultdict(int)
    for visitor in visitors:
        for position, seconds in visitor.pages.items():
            expected[position, seconds] += 1
    counted = {(position, seconds): count for position, seconds, count in left}
    (completed,) = database.execute("SELECT count(*) FROM participants WHERE status = 'completed'").fetchone()
    (participants,) = database.execute("SELECT count(*) FROM participants").fetchone()
    return {
        "answers_acknowledged": len(told),
        "answers_stored": len(rows),
        "acknowledged_but_lost": sum(key not in stored for key in as_told),
        "stored_otherwise": sum(key in stored and stored[key] != [as_told[key]] for key in as_told),
        "stored_twice": sum(len(found) > 1 for found in stored.values()),
        "stored_unasked": sum(key not in as_told for key in stored),
        "page_times_wrong": sum(counted.get(page) != count for page, count in expected.items()),
        "participants": participants,
        "completed": completed,
    }


def commits_floor(seconds: float) -> float:
    """Return commits a second of one writer: an answer's row a transaction, the study's own pragmas."""
    with tempfile.TemporaryDirectory() as folder:
        database = sqlite3.connect(Path(folder) / "floor.sqlite", isolation_level=None)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
            database.execute(f"PRAGMA {pragma}")
        database.execute("CREATE TABLE a (id INTEGER PRIMARY KEY, p INT, t INT, q, v, key UNIQUE, at)")
        until, count = time.perf_counter() + seconds, 0
        while time.perf_counter() < until:
            database.execute("BEGIN IMMEDIATE")
            row = (count, count, "overall", "4", f"{count:032d}", "2026-01-01 00:00:00.000000")
            database.execute("INSERT INTO a (p, t, q, v, key, at) VALUES (?, ?, ?, ?, ?, ?)", row)
            database.execute("COMMIT")
            count += 1
        database.close()
    return round(count / seconds, 1)


BARE = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

async def answer(request):
    return JSONResponse({"data": [await request.json()]})

app = Starlette(routes=[Route("/", answer, methods=["POST"])])
uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
"""


@contextlib.contextmanager
def bare_server() -> Iterator[str]:
    """Serve a Starlette that only reads and returns JSON."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", BARE, str(port)])
    try:
        url = f"http://127.0.0.1:{port}/"
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                httpx.post(url, json=1)
                break
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


async def posts(url: str, clients: int, requests: int) -> dict[str, float]:
    """Return what as many clients get out of an address, each sending without a pause."""
    times: list[float] = []
    body = {
        "fn_index": 4,
        "data": ["x" * 80, {"position": 0, "question": "overall", "value": "4", "key": "0" * 32}],
    }

    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=60) as http:

        async def one() -> None:
            for _ in range(requests):
                begun = time.perf_counter()
                await http.post(url, json=body)
                times.append(time.perf_counter() - begun)

        begun = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(clients)))
        wall = time.perf_counter() - begun
    return {"posts_per_second": round(len(times) / wall, 1), **_percentiles(times)}


def floors(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what is below the app: SQLite's commits, HTTP."""
    with bare_server() as url:
        posted = asyncio.run(posts(url, options.participants, 1 if options.quick else 20))
    return {"sqlite_commits_per_second": commits_floor(1 if options.quick else 5), "bare_starlette": posted}


def run(options: argparse.Namespace, killed: bool) -> dict[str, Any]:
    """Serve a study, let everyone take part, hold the database against what they were told."""
    with tempfile.TemporaryDirectory() as folder:
        study = made_up(Path(folder), options.participants, options.pages)
        server = Server(study.path)
        server.start()
        try:
            visitors, measured = asyncio.run(crowd(server, options, killed))
        finally:
            server.stop()
        measured["server_core_ms_per_request"] = round(1000 * server.core_seconds / measured["requests"], 2)
        return {**measured, "audit": audit(study.path, visitors)}


def main() -> None:
    """Measure, print, and end with 1 where something was lost or doubled."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--participants", type=int, default=200)
    parser.add_argument("--pages", type=int, default=20)
    parser.add_argument("--compressed", type=float, default=2.5, help="how many times faster than people")
    parser.add_argument("--quick", action="store_true", help="8 participants, 3 pages, for tests")
    parser.add_argument("--out", type=Path, help="file to write the JSON to")
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    options = parser.parse_args()
    if options.quick:
        options.participants, options.pages, options.compressed = 8, 3, 50.0
    options.page_seconds = SECONDS_A_PAGE / options.compressed
    found = {
        "benchmark": "study_load",
        "participants": options.participants,
        "pages": options.pages,
        "answers_a_page": len(QUESTIONS),
        "seconds_a_page": options.page_seconds,
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "floors": floors(options),
        "in_peace": run(options, killed=False),
        "killed": run(options, killed=True),
    }
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    if options.json:
        print(json.dumps(found))
    wrong = (
        "acknowledged_but_lost",
        "stored_otherwise",
        "stored_twice",
        "stored_unasked",
        "page_times_wrong",
    )
    audits = (found["in_peace"]["audit"], found["killed"]["audit"])
    if any(one[name] for one in audits for name in wrong):
        raise SystemExit("answers were lost or doubled: see audit")


if __name__ == "__main__":
    main()
