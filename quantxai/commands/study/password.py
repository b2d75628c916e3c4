"""`quantxai study password`: who may see the admin page."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from quantxai.commands.present import presented
from quantxai.commands.study.opening import Directory
from quantxai.errors import InputError, MissingExtra

__all__ = ["password"]


@presented
def password(
    study: Directory,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read it from standard input, for scripts.")] = False,
) -> None:
    """Set the password of the admin page, at /admin of the served study.

    It is asked for twice and not shown; only its hash is kept, in STUDY/admin.json. Whoever is signed in
    with another password is signed out.

    Example: quantxai study password study
    """
    try:
        from userstudy.password import set_password
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "itsdangerous", "study", "the admin page") from None
    from userstudy.study import Study

    opened = Study.open(study)
    set_password(opened, _piped() if stdin else _asked())
    typer.echo("The password is set. The admin page is at /admin of the served study.", err=True)


def _piped() -> str:
    return sys.stdin.readline().rstrip("\r\n")


def _asked() -> str:
    if not sys.stdin.isatty():
        raise InputError("there is no keyboard to ask for the password. Give it to --stdin instead.")
    first = typer.prompt("Password of the admin page", hide_input=True, err=True)
    if typer.prompt("Once more", hide_input=True, err=True) != first:
        raise InputError("the two passwords differ; nothing was changed.")
    return str(first)
