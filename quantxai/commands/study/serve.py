"""`quantxai study serve`: the participant's page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from quantxai.commands.present import complain, presented
from quantxai.commands.study.opening import Database, Directory
from quantxai.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from userstudy.study import Study

__all__ = ["serve"]

_PROLIFIC = "PROLIFIC_PID={{%PROLIFIC_PID%}}&STUDY_ID={{%STUDY_ID%}}&SESSION_ID={{%SESSION_ID%}}"
"""What Prolific puts its own identifiers into, as its address of a study is written."""


@presented
def serve(
    study: Directory,
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Port to listen at; 0 for any.")
    ] = 7860,
    host: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Address to listen at; 0.0.0.0 lets other machines in."),
    ] = "127.0.0.1",
    database: Database = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Try the pages: a banner says so, and nothing is kept.")
    ] = False,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Whoever comes is a simulated rater, apart from people.")
    ] = False,
    root_path: Annotated[
        str, typer.Option(metavar="PATH", help="What the public address has before the page, as /study.")
    ] = "",
    proxy: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="The proxy in front; only its X-Forwarded headers are believed."
        ),
    ] = "",
    names: Annotated[
        str, typer.Option("--names", metavar="NAME,...", help="Host names to answer to; all if left out.")
    ] = "",
    embed: Annotated[
        str, typer.Option(metavar="SITE", help="Site that may show the page in a frame, as https://...")
    ] = "",
    enrolments: Annotated[
        int, typer.Option(metavar="N", min=1, help="Sessions that one address may begin within an hour.")
    ] = 1000,
) -> None:
    """Serve the participant's page until Ctrl-C.

    Everything is stored as it is given, so the server may stop at any time, and whoever is in the middle goes
    on when it is back. Where it is reached from the internet, put a proxy with https in front and name it with
    --proxy; several processes may serve one study behind it.

    Example: quantxai study serve study --port 7860
    """
    from userstudy.place import Place
    from userstudy.study import Study

    if preview and (simulated or database):
        raise InputError("--preview keeps nothing: leave out --simulated and --database.")
    opened = Study.open(study)
    known = tuple(name.strip().lower() for name in names.split(",") if name.strip())
    place = Place(host, port, root_path, proxy, known, embed, enrolments)
    place.listen().close()  # said at once, not after what takes seconds to load
    _warn(opened, preview)
    try:
        import gradio  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "gradio", "study", "serving a study") from None
    from userstudy.app.serving import serve

    kind = "preview" if preview else "simulated" if simulated else "human"
    serve(opened, place, database=database, kind=kind, announce=lambda at: _announce(opened, at, kind))


def _announce(study: Study, address: str, kind: str) -> None:
    from userstudy.password import version

    typer.echo(f"{study.settings.name}: the study is served{_KINDS[kind]}. Stop it with Ctrl-C.", err=True)
    typer.echo(f"participants  {address}/")
    typer.echo(f"on Prolific   {address}/?{_PROLIFIC}")
    typer.echo(f"admin         {address}/admin")
    if version(study) is None and kind != "preview":
        complain(
            f"the admin page is closed until it has a password: quantxai study password {study.path}", "note"
        )


_KINDS = {
    "human": "",
    "preview": " as a preview, nothing is kept",
    "simulated": " to simulated raters, kept apart from people",
}


def _warn(study: Study, preview: bool) -> None:
    """Say what no participant should see; in a preview it may be seen."""
    from userstudy.presets import unfilled

    left = unfilled(study.settings)
    if left and not preview:
        complain(
            f"study.toml is not filled in yet, and participants would see it: {', '.join(left)}.", "note"
        )
