"""The command `quantxai`. Nothing heavy is imported here: commands import what they need when they run."""

from __future__ import annotations

from typing import Annotated

import typer

from quantxai import __version__
from quantxai.commands import catalogue, runs
from quantxai.commands.diff import diff
from quantxai.commands.gate import gate
from quantxai.commands.inspect import inspect
from quantxai.commands.plan import plan
from quantxai.commands.present import presented
from quantxai.commands.quantize import quantize
from quantxai.commands.study import study
from quantxai.commands.sweep import sweep
from quantxai.installation import check_own_packages

__all__ = ["app", "main"]

app = typer.Typer(
    name="quantxai",
    help="What quantization does to a language model's explanations, and to how well it can be explained.\n\n"
    "Start with: quantxai sweep",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"quantxai {__version__}")
        raise typer.Exit


@app.callback()
@presented
def _before_any_command(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand != "doctor":  # which says the same at length
        check_own_packages()


app.command()(sweep)
app.command()(plan)
app.command()(inspect)
app.command()(quantize)
app.command()(runs.report)
app.command()(runs.query)
app.command()(runs.compare)
app.command()(gate)
app.command()(diff)
app.command()(catalogue.init)
app.command("list")(catalogue.list_methods)
app.add_typer(catalogue.models, name="models")
app.add_typer(study, name="study")
app.command()(catalogue.doctor)


def main() -> None:
    """Run the command line and exit."""
    app()
