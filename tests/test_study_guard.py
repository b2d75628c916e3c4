"""The guard before Gradio, around a small app that tells what reached it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("itsdangerous")

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from quantxai.errors import ConfigError
from userstudy.app.calls import BadCall, read_call
from userstudy.app.guard import CALL, Guard, Rules
from userstudy.app.headers import inline_scripts
from userstudy.app.limits import Limit, Limiter, address_group
from userstudy.place import Place

FUNCTIONS = {0: 1, 3: 2}
PAGE = "<!doctype html><head><base href=\"./\" /><script>window.a = 1;</script><script src='/x.js'></script></head>"


async def told(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with what arrived."""
    request = Request(scope, receive)
    if scope["path"] == "/healthz":
        raise RuntimeError("a secret in /srv/study")
    if scope["path"] == "/":
        await HTMLResponse(PAGE + scope["query_string"].decode())(scope, receive, send)
        return
    body = await request.body()
    seen = {"headers": dict(request.headers), "query": dict(request.query_params)}
    call = json.loads(body) if scope["path"] == CALL else None
    broken = bool(call) and call["data"] == ["broken"]
    content = {"error": "Traceback of /srv/study"} if broken else seen | {"call": call}
    headers = {"Access-Control-Allow-Origin": "*"}
    await JSONResponse(content, 500 if broken else 200, headers)(scope, receive, send)


def client(**rules: Any) -> TestClient:
    guard = Guard(told, FUNCTIONS, 3, Rules(**rules))
    return TestClient(guard, "http://study.example", raise_server_exceptions=False)


def call(on: TestClient, data: list[Any], function: Any = 0, **more: Any) -> Any:
    return on.post(CALL, json={"fn_index": function, "data": data, **more})


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/gradio_api/queue/data",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/run/other",
        "/gradio_api/run/predict/",
        "/config",
        "/docs",
        "/monitoring",
        "/manifest.json",
        "/assets//a.js",
        "/assets/../config",
        "/assets/%2e%2e/config",
        "/static/..%2f..%2fconfig",
        "/static/..%5cconfig",
        "/static/.hidden",
        "/assets/a%00.js",
        "/administrator",
    ],
)
def test_what_the_page_does_not_need_is_not_there(path: str) -> None:
    assert client().get(path).status_code == 404
    assert client().post(path, json={}).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/"), ("POST", "/"), ("OPTIONS", CALL), ("GET", CALL), ("DELETE", "/admin")]
)
def test_other_methods_are_refused(method: str, path: str) -> None:
    assert client().request(method, path).status_code == 405


def test_a_call_arrives_in_its_fixed_shape() -> None:
    sent = call(client(), ["token", "7"], 3, session_hash="abc", event_id="e", batched=True, oauth_token="x")

    assert sent.status_code == 200
    assert sent.json()["call"] == {"fn_index": 3, "data": ["token", "7"]}


def test_text_loses_only_what_no_table_can_hold() -> None:
    read = read_call(b'{"fn_index": 0, "data": ["a\\u0000b \\ud800 \\ud83d\\ude00 \\t\\u202e"]}', FUNCTIONS)

    assert json.loads(read.body)["data"] == ["ab \ufffd \U0001f600 \t\u202e"]
    assert read.token == "ab \ufffd \U0001f600 \t\u202e"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b'{"fn_index": 0}',
        b'{"fn_index": 0, "data": "x"}',
        b'{"fn_index": 0, "data": []}',
        b'{"fn_index": 0, "data": ["a", "b"]}',
        b'{"fn_index": 1, "data": ["a"]}',
        b'{"fn_index": -1, "data": ["a"]}',
        b'{"fn_index": true, "data": ["a"]}',
        b'{"fn_index": 0.0, "data": ["a"]}',
        b'{"fn_index": "0", "data": ["a"]}',
        b'{"fn_index": 0, "data": [NaN]}',
        b'{"fn_index": 0, "data": [-Infinity]}',
        b'{"fn_index": 0, "data": [1e999]}',
        b'{"fn_index": 0, "data": [' + b"9" * 4000 + b"]}",
        b'{"fn_index": 0, "data": [' + b"9" * 5000 + b"]}",
        b'{"fn_index": 0, "data": [9007199254740993]}',
        b'{"fn_index": 0, "data": ' + b"[" * 8 + b"]" * 8 + b"}",
        b"[" * 60_000,
        b'{"fn_index": 0, "data": [' + b'{"a":' * 9 + b"1" + b"}" * 9 + b"]}",
        b'{"fn_index": 0, "data": [[' + b"1," * 3000 + b"1]]}",
    ],
)
def test_what_the_page_never_sends_is_refused_in_one_sentence(body: bytes) -> None:
    with pytest.raises(BadCall):
        read_call(body, FUNCTIONS)
    answer = client().post(CALL, content=body)

    assert answer.status_code == 400
    assert answer.json() == {"error": "The page sent something that cannot be read. Please reload it."}


def test_a_body_has_a_largest_size_however_it_arrives() -> None:
    text = "x" * 70_000

    assert call(client(), [text]).status_code == 413
    assert client().post(CALL, content=iter([b"x" * 40_000, b"x" * 40_000])).status_code == 413
    assert call(client(), ["x" * 60_000]).status_code == 200


def test_errors_hold_no_traceback_and_no_path() -> None:
    for answer in (client().get("/healthz"), call(client(), ["broken"])):
        assert answer.status_code == 500
        assert "srv" not in answer.text
        assert "kept" in answer.json()["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://study.example"}, 200),
        ({"Origin": "https://study.example"}, 200),  # a proxy may speak https for us
        ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://study.example.evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://study.example"}, 403),
        ({"Host": "evil.example/study"}, 400),
        ({"Host": "a b"}, 400),
        ({"Host": ""}, 400),
    ],
)
def test_another_site_cannot_send_for_a_participant(headers: dict[str, str], status: int) -> None:
    body = {"fn_index": 0, "data": ["x"]}

    assert client().post(CALL, json=body, headers=headers).status_code == status


def test_names_of_the_server_can_be_fixed() -> None:
    named = client(hosts=("study.example",))

    assert named.get("/", headers={"Host": "study.example:8443"}).status_code == 200
    assert named.get("/", headers={"Host": "STUDY.example"}).status_code == 200
    assert named.get("/", headers={"Host": "study.example.evil.example"}).status_code == 400


def test_only_the_page_s_own_parameters_and_headers_reach_gradio() -> None:
    forged = {"X-Forwarded-Host": "evil.example", "Cookie": "access-token=1", "Authorization": "Basic eA=="}
    query = "?t=abc&lang=de&PROLIFIC_PID=p&deep_link=..%2Fx&page=y&kind=simulated&__sign=1"

    assert client().get("/" + query).text.endswith("t=abc&lang=de&PROLIFIC_PID=p")
    seen = client().post(CALL + query, json={"fn_index": 0, "data": ["x"]}, headers=forged).json()
    assert seen["query"] == {"t": "abc", "lang": "de", "PROLIFIC_PID": "p"}
    assert not {"x-forwarded-host", "cookie", "authorization"} & set(seen["headers"])
    behind = client(behind_proxy=True).post(CALL, json={"fn_index": 0, "data": ["x"]}, headers=forged).json()
    assert behind["headers"]["x-forwarded-host"] == "evil.example"
    admin = (
        client().get("/admin/login?next=1", headers={"Cookie": "a=1", "X-Forwarded-For": "1.2.3.4"}).json()
    )
    assert admin["headers"]["cookie"] == "a=1"
    assert admin["query"] == {"next": "1"}
    assert "x-forwarded-for" not in admin["headers"]


def test_the_page_s_policy_names_its_scripts_and_no_other_host() -> None:
    answer = client(frame_ancestors="https://lab.example").get("/")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))

    assert inline_scripts(answer.content) == [b"window.a = 1;"]
    assert policy["script-src"].split() == [
        "'self'",
        "'unsafe-eval'",
        # printf '%s' 'window.a = 1;' | openssl dgst -sha256 -binary | base64
        "'sha256-ShPZs6SyOIfeOg7tsGkUC0BIIQiM/4HlSLumBwNEK6k='",
    ]
    assert policy["connect-src"] == policy["default-src"] == "'self'"
    assert policy["object-src"] == policy["base-uri"] == "'none'"
    assert policy["frame-ancestors"] == "https://lab.example"
    assert "<base" not in answer.text


@pytest.mark.parametrize("path", ["/", "/nothing", "/healthz", "/assets/a.js", "/admin"])
def test_every_answer_has_the_security_headers(path: str) -> None:
    answer = client().get(path)

    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["cache-control"] == ("public, max-age=86400" if "assets" in path else "no-store")


def test_limits_hold_by_link_address_and_enrolment() -> None:
    few = client(link=Limit(0.1, 3), enrolment=Limit(0.1, 2))

    assert [call(few, ["one"]).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert call(few, ["two"]).status_code == 200
    assert [call(few, [None, "en"], 3).status_code for _ in range(3)] == [200, 200, 429]
    refused = call(few, ["one"])
    assert 1 <= int(refused.headers["retry-after"]) <= 10
    crowded = client(address=Limit(0.1, 2))
    assert [crowded.get("/").status_code for _ in range(3)] == [200, 200, 429]
    assert crowded.get("/assets/a.js").status_code == 200


def test_two_hundred_people_in_one_room_are_not_hindered() -> None:
    """Each loads the page and answers 20 pages of 6 questions, all within ten minutes."""
    clock = [0.0]
    rules = Rules()
    address = Limiter(rules.address, clock=lambda: clock[0])
    enrolment = Limiter(rules.enrolment, clock=lambda: clock[0])

    assert not any(enrolment.wait("room") for _ in range(200))
    for _ in range(200 * 20 * 7):
        clock[0] += 600 / (200 * 20 * 7)
        assert not address.wait("room")


def test_a_limit_recovers_and_old_keys_are_forgotten() -> None:
    clock = [0.0]
    limiter = Limiter(Limit(per_second=2, burst=1), keys=2, clock=lambda: clock[0])

    assert [limiter.wait("a"), limiter.wait("a")] == [0.0, 0.5]
    clock[0] = 0.5
    assert limiter.wait("a") == 0.0
    limiter.wait("b")
    limiter.wait("c")
    assert limiter.wait("a") == 0.0  # a, the oldest, was forgotten


def test_one_household_is_one_address() -> None:
    assert address_group("2001:db8:1:2:3::4") == address_group("2001:db8:1:2:ffff::") == "2001:db8:1:2::/64"
    assert address_group("::ffff:192.0.2.1") == address_group("192.0.2.1") == "192.0.2.1"
    assert address_group("testclient") == "testclient"


@pytest.mark.parametrize(
    "site", ["evil", "javascript:x", "https://a.example; script-src *", "https://a/b", "*"]
)
def test_who_may_embed_the_page_is_one_site(site: str) -> None:
    assert Place(embed="https://survey.example.org:8443").embed
    with pytest.raises(ConfigError, match="a site is written as"):
        Place(embed=site)


def test_no_websocket_is_opened() -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Guard(told, FUNCTIONS, 3, Rules())({"type": "websocket", "path": "/"}, None, send))  # type: ignore[arg-type]

    assert [message["type"] for message in sent] == ["websocket.close"]
