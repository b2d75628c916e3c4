"""`quantxai study`: the user study, from a run to analysed ratings."""

from __future__ import annotations

import typer

from quantxai.commands.study.admission import close, open_, pause
from quantxai.commands.study.analyze import analyze
from quantxai.commands.study.exclude import exclude, include
from quantxai.commands.study.export import export
from quantxai.commands.study.new import draw, new
from quantxai.commands.study.password import password
from quantxai.commands.study.power import power
from quantxai.commands.study.serve import serve
from quantxai.commands.study.simulate import simulate
from quantxai.commands.study.status import status
from quantxai.commands.study.withdraw import withdraw

__all__ = ["study"]

study = typer.Typer(
    name="study",
    help="From a run to analysed human ratings.\n\nPeople rate the explanations and do not know which variant "
    "wrote them. Start with: quantxai study new runs/default --out study",
    no_args_is_help=True,
    rich_markup_mode=None,
)
study.command()(analyze)
study.command()(close)
study.command()(draw)
study.command()(exclude)
study.command()(export)
study.command()(include)
study.command()(new)
study.command("open")(open_)
study.command()(password)
study.command()(pause)
study.command()(power)
study.command()(serve)
study.command()(simulate)
study.command()(status)
study.command()(withdraw)
