"""The participant's app: `create_app` gives the ASGI application.

The wire format
---------------
The page speaks to Gradio's one address `POST {root}/gradio_api/run/predict`, and so can a program:

    {"fn_index": 4, "data": ["TOKEN", {"position": 0, "question": "overall", "value": "6", "key": "..."}]}

`fn_index` is the place of the handler in `HANDLERS` (also: the `id` of the entry of
`window.gradio_config.dependencies` with that `api_name`). `data` is the participant's token, empty before
consent, and one object. The answer is `{"data": [reply], ...}`, and each reply is an object:

=========== =============================================== =========================================
handler     object sent                                     reply, beside `ok`
=========== =============================================== =========================================
show        language?                                       a page
enrol       language, device?, prolific?: {PROLIFIC_PID,    a page and `token`
            STUDY_ID, SESSION_ID}, key?
start       -                                               a page: the check, or the first rating
check       answers: [0, 1, ...], key?                      a page and `passed`
answer      position, question, value, key                  key
turn        from, to, seconds                               a page
finish      seconds?                                        a page: the debrief
withdraw    -                                               a page
language    language                                        a page in that language
=========== =============================================== =========================================

A page is `stage` (consent, instructions, check, rating, debrief, notice), `position`, `pages`,
`answers` (by question, of this page), `html`, `title`, `language`, `direction`, and in the debrief `code`
and `url`. In `html` the texts stand under `[data-stimulus] [data-part] .text` (where changes are marked,
`.text.plain` has the bare text) and the questions under `[data-question]`.

Where something cannot be done, `ok` is false, `kind` says what (userstudy.errors), `message` says it kindly
in the participant's language, `retry` whether the same call may succeed later (the page sends it again,
with the same key); otherwise a page says it, too. `key` is made by the caller, random, once for each answer,
attempt at the check and beginning: the same key sent twice is stored once. Status 429 means slower, 5xx try again.

Nothing is kept in the process: every call carries the token, and two processes can serve one study.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from userstudy.app.admin import admin_routes
from userstudy.app.guard import Guard, Rules
from userstudy.app.handlers import HANDLERS, Handlers
from userstudy.app.pages import Pages, Shown
from userstudy.app.shell import document
from userstudy.sessions import Sessions
from userstudy.study import Study

__all__ = ["HANDLERS", "create_app"]


def create_app(
    study: Study,
    engine: Engine,
    *,
    preview: bool = False,
    simulated: bool = False,
    rules: Rules | None = None,
    root_path: str = "",
) -> FastAPI:
    """Return the participant's app, to be served under one address.

    Args:
        study: what is asked and shown.
        engine: its database, from `userstudy.database.open_database`.
        preview: whether every page says that nothing is kept, and sessions are marked as previews.
        simulated: whether whoever comes is a simulated rater. Only the server says so: a participant can
            neither pass for one nor, where people take part, be anything else than human.
        rules: what a deployment decides: the server's names, who may embed the page, limits.
        root_path: what the public address has before the page, such as `/study`; empty for nothing.

    Raises:
        ConfigError: a language of the study lacks words.
    """
    pages = Pages(study, preview=preview)
    kind = "preview" if preview else "simulated" if simulated else "human"
    handlers = Handlers(Sessions(study, engine), pages, kind)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/", response_class=HTMLResponse)
    async def page(request: Request) -> HTMLResponse:
        """The participant's page, wherever they are."""
        shown = await run_in_threadpool(_first, handlers, request)
        return HTMLResponse(await document(mounted, request.scope, shown, pages))

    app.include_router(admin_routes(study, engine, root_path))
    blocks = _blocks(handlers)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        root_path=root_path or None,
        footer_links=[],
        run_history=False,
        show_error=False,
        pwa=False,
        mcp_server=False,
        ssr_mode=False,
    )
    mounted: Any = app.routes[-1].app  # type: ignore[attr-defined]
    functions = {index: len(function.inputs) for index, function in blocks.fns.items()}
    app.add_middleware(Guard, functions=functions, enrolling=HANDLERS.index("enrol"), rules=rules or Rules())
    return app


def _first(handlers: Handlers, request: Request) -> Shown:
    query = request.query_params
    spoken = [
        part.partition(";")[0].strip() for part in request.headers.get("accept-language", "").split(",")
    ]
    return handlers.first(query.get("t", ""), handlers.pages.language(query.get("lang", ""), *spoken))


def _blocks(handlers: Handlers) -> gr.Blocks:
    """Gradio's part: the component that holds the page, and one event handler for each call."""
    with gr.Blocks(title="", analytics_enabled=False) as blocks:
        gr.HTML("", elem_id="host", apply_default_css=False, js_on_load=None)
        token, sent, reply = gr.Textbox(visible=False), gr.JSON(visible=False), gr.JSON(visible=False)
        for name in HANDLERS:
            gr.on(
                [],
                handlers.named(name),
                [token, sent],
                reply,
                api_name=name,
                queue=False,
                show_progress="hidden",
                api_visibility="private",
            )
    return blocks
