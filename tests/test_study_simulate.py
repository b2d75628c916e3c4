"""Simulated raters before the page: they read it, answer by their truth, and repeat what was not acknowledged."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import select
from study_support import make_study

from quantxai.errors import InputError, QuantxaiError
from userstudy import client as client_module
from userstudy import simulated as simulated_module
from userstudy.app.handlers import HANDLERS, Handlers
from userstudy.app.pages import Pages
from userstudy.client import Client, Refused
from userstudy.database.engine import open_database, transaction
from userstudy.database.models import Answer, Participant
from userstudy.raters import Truth
from userstudy.ratings import ratings
from userstudy.sessions import Sessions
from userstudy.simulated import Crowd, Outcome, Reader, simulate
from userstudy.study import Study

CALM: dict[str, Any] = {"careless": 0.0, "straight_lining": 0.0, "drop_out": 0.0, "attention_failure": 0.0}
PAIR = {
    "design": {"show": "pair", "items": 4, "per_participant": 4, "repeats": 1, "attention_checks": 1},
    "questions": [{"id": "better", "kind": "pairwise", "text": "Which is better?"}],
    "items": 4,
}
GUESS = {
    "questions": [
        {"id": "guess", "kind": "label", "text": "Which label?"},
        {"id": "why", "kind": "text", "text": "Why?"},
    ]
}


class Served:
    """A study behind a transport: the handlers and pages of the app, without Gradio and a network."""

    def __init__(self, study: Study, kind: str = "simulated") -> None:
        self.study, self.engine = study, open_database(study)
        self.handlers = Handlers(Sessions(study, self.engine), Pages(study), kind)
        self.before: Callable[[str, Any], httpx.Response | None] = lambda name, sent: None
        self.after: Callable[[str, Any], httpx.Response | None] = lambda name, sent: None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            told = {"dependencies": [{"id": i, "api_name": name} for i, name in enumerate(HANDLERS)]}
            return httpx.Response(200, html=f"<script>window.gradio_config = {json.dumps(told)};</script>")
        assert request.url.path == "/gradio_api/run/predict"
        body = json.loads(request.content)
        name, (token, sent) = HANDLERS[body["fn_index"]], body["data"]
        instead = self.before(name, sent)
        reply = instead or httpx.Response(200, json={"data": [self.handlers.named(name)(token, sent)]})
        return self.after(name, sent) or reply

    def http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url="http://study", transport=httpx.MockTransport(self))


def run(served: Served, truth: Truth, count: int) -> list[Outcome]:
    """Let raters take part in a study that is served in this process."""
    return asyncio.run(simulate(Crowd(served.study, truth, count, seed=1), served.http()))


@pytest.mark.parametrize("changes", [{}, PAIR, GUESS], ids=["one", "pair", "guess"])
def test_everyone_answers_everything_once(tmp_path: Path, changes: dict[str, Any]) -> None:
    served = Served(make_study(tmp_path / "study", **changes))
    outcomes = run(served, Truth(**CALM), 2)
    assert Counter(o.ended for o in outcomes) == {"completed": 2}
    assert len({o.code for o in outcomes}) == 2
    told = [answer for o in outcomes for answer in o.acknowledged]
    with transaction(served.engine, write=False) as session:
        assert {p.kind for p in session.scalars(select(Participant))} == {"simulated"}
        stored = {a.key: (a.question, a.value) for a in session.scalars(select(Answer))}
    assert stored == {a.key: (a.question, a.value) for a in told}
    table = ratings(served.study, served.engine)
    assert set(table.loc[table["kind"] == "attention", "value"]) == {1.0}
    assert ratings(served.study, served.engine, kind="human").empty


def test_answers_are_about_the_text_on_the_page(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", recruitment={"participants": 4})
    served = Served(study)
    truth = Truth(effects={"gptq-3": -12.0, "nf4": 12.0}, noise=0.0, **CALM)
    run(served, truth, 3)
    table = ratings(study, served.engine)
    rated = table[table["kind"] != "attention"]
    means = rated.groupby("variant")["value"].mean()
    assert means["gptq-3"] == 1.0
    assert means["nf4"] == 7.0
    assert 3.5 < means["full"] < 6
    # Without noise nobody contradicts themselves, and going back changes nothing.
    twice = rated[rated["kind"].isin(["rating", "repeat"])].groupby(["participant", "stimulus", "question"])[
        "value"
    ]
    assert (twice.nunique() == 1).all()


def test_sides_of_a_pair(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", **PAIR)
    served = Served(study)
    run(served, Truth(others=12.0, **CALM), 3)
    table = ratings(study, served.engine)
    rated = table[table["kind"] != "attention"]
    assert set(rated["value"]) == {1.0}
    assert set(rated["text"]) == {"left", "right"}


def test_who_leaves_leaves(tmp_path: Path) -> None:
    served = Served(make_study(tmp_path / "study"))
    outcomes = run(served, Truth(**{**CALM, "drop_out": 1.0}), 4)
    assert {o.ended for o in outcomes} == {"left"}
    assert len({len(o.acknowledged) for o in outcomes}) > 1
    full = Served(make_study(tmp_path / "full", recruitment={"participants": 1}))
    assert Counter(o.ended for o in run(full, Truth(**CALM), 2)) == {"completed": 1, "study_full": 1}


def test_a_participant_cannot_pass_for_a_simulated_one(tmp_path: Path) -> None:
    served = Served(make_study(tmp_path / "study"), kind="human")
    sent = {"language": "en", "device": "desktop", "kind": "simulated", "simulated": True}
    assert served.handlers.named("enrol")("", sent)["ok"]
    with transaction(served.engine, write=False) as session:
        assert [p.kind for p in session.scalars(select(Participant))] == ["human"]


def test_what_was_not_acknowledged_is_sent_again_under_the_same_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(make_study(tmp_path / "study"))
    monkeypatch.setattr(client_module, "_PAUSE", 0.0)
    sent: Counter[str] = Counter()

    def lost(name: str, request: Any) -> httpx.Response | None:
        """What was sent is stored, and the word of it gets lost, in one of four ways."""
        if name not in ("answer", "enrol"):
            return None
        sent[request["key"]] += 1
        if sent[request["key"]] < 3:
            way = int(request["key"], 16) % 4
            if way == 0:
                raise httpx.ConnectError("refused")
            return httpx.Response((429, 502, 500)[way - 1])
        return None

    served.after = lost
    outcomes = run(served, Truth(**CALM), 2)
    assert set(sent.values()) == {3}
    with transaction(served.engine, write=False) as session:
        stored = [a.key for a in session.scalars(select(Answer))]
        assert len(session.scalars(select(Participant)).all()) == len(outcomes) == 2
    assert sorted(stored) == sorted(a.key for o in outcomes for a in o.acknowledged)
    assert len(sent) == len(stored) + 2


def test_the_client_says_what_the_server_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_PAUSE", 0.0)
    served = Served(make_study(tmp_path / "study"))

    async def tried() -> None:
        async with served.http() as http:
            client = Client(http, patience=0.05)
            await client.open()
            client.token = "forged"
            with pytest.raises(Refused, match="link_invalid") as refused:
                await client.call("show")
            assert refused.value.kind == "link_invalid"
            client.token = ""
            served.before = lambda name, sent: httpx.Response(400)
            with pytest.raises(Refused, match="invalid_answer"):
                await client.call("enrol", language="en")
            later = {"ok": False, "kind": "unavailable", "retry": True, "message": "Later."}
            served.before = lambda name, sent: httpx.Response(200, json={"data": [later]})
            with pytest.raises(QuantxaiError, match="did not answer"):
                await client.call("enrol", language="en")

    asyncio.run(tried())


def test_another_address(tmp_path: Path) -> None:
    async def tried(page: str) -> None:
        transport = httpx.MockTransport(lambda request: httpx.Response(200, html=page))
        async with httpx.AsyncClient(base_url="http://elsewhere", transport=transport) as http:
            with pytest.raises(InputError, match="no study's page"):
                await Client(http).open()

    for page in ("<p>Hello</p>", "<script>window.gradio_config = {};</script>"):
        asyncio.run(tried(page))


def test_an_address_where_nothing_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_PAUSE", 0.0)
    monkeypatch.setattr(simulated_module, "_AT_FIRST", 0.05)

    def nothing(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    crowd = Crowd(make_study(tmp_path / "study"), Truth(), 1, seed=1)
    with pytest.raises(QuantxaiError, match=r"did not answer.*refused"):
        asyncio.run(
            simulate(
                crowd, httpx.AsyncClient(base_url="http://study", transport=httpx.MockTransport(nothing))
            )
        )


def test_reader_knows_every_page_and_no_other(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    study = make_study(tmp_path / "study")
    reader = Reader(study)
    assert reader.alike == 0
    with pytest.raises(InputError, match="not the study's"):
        reader.stimuli('<p class="text">Something else</p>', rng)
    stimuli = list(study.stimuli.values())
    twin = stimuli[1].model_copy(update={"parts": stimuli[0].parts})
    study.__dict__["stimuli"] = study.stimuli | {twin.id: twin}
    assert Reader(study).alike == 2
