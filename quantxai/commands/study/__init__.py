"""`quantxai study`: the user study, from a run to analysed ratings."""

from __future__ import annotations

import typer

from quantxai.commands.study.new import draw, new

__all__ = ["study"]

study = typer.Typer(
    name="study",
    help="Let people rate the explanations, blind to the model, and analyse the ratings.\n\n"
    "Start with: quantxai study new runs/default --out study",
    no_args_is_help=True,
    rich_markup_mode=None,
)
study.command()(draw)
study.command()(new)
