"""`quantxai inspect`: what a model would say after each layer, beside a quantized variant of it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantxai.commands.present import presented, print_json, wrapped

if TYPE_CHECKING:
    from quantxai.config import SweepConfig
    from quantxai.lens import Lens, LensLayer, Reading

__all__ = ["inspect"]

_LEAST_TEXT, _MOST_TEXT = 6, 14
"""Columns a token's text gets: fewer tokens are shown where it would be less."""
_CHANCE = 4
"""Columns of a token's probability and the space before it."""


@presented
def inspect(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A registered model, a Hub id or a directory; the configuration's (smollm2-135m) where left out.",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help="The text to be continued; a single argument is it."),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A variant to put beside the parent; may be repeated."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="CONFIG.toml", help="Where variants are described; the default sweep where left out."
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="The token to follow, ' Paris'; the parent's prediction where left out."
        ),
    ] = None,
    position: Annotated[
        int,
        typer.Option(metavar="N", help="Which token of the prompt is read, from 0; -1 is the last."),
    ] = -1,
    top: Annotated[int, typer.Option(min=1, max=20, metavar="N", help="Tokens shown of each layer.")] = 3,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page that opens offline, too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """See what a model says layer by layer.

    The logit lens (nostalgebraist 2020): the most likely tokens after every layer, of the model and, with
    --variant, of a quantized variant beside it, the differences marked. Variants are those of the default
    sweep (int8, nf4, gptq-4, gptq-3, awq-4, rtn-4) or of CONFIG.toml, made and cached as a sweep does.

    Example: quantxai inspect smollm2-135m "The capital of France is" --variant gptq-4
    """
    from quantxai import inspection
    from quantxai.progress import for_stream

    named, text = _arguments(model, prompt)
    with _naming(config), for_stream() as progress:
        settings = _configuration(config, named)
        if model is not None and prompt is None:
            _note_name(text, settings)
        _check_page(html)
        lens = inspection.inspect(
            text,
            variant or (),
            config=settings,
            token=token,
            position=position,
            top=top,
            progress=progress,
        )
    if html is not None:
        from quantxai.files import write_atomically
        from quantxai.report.lens import lens_page

        write_atomically(html, lens_page(lens))
    if as_json:
        print_json(lens.model_dump(mode="json"))
        return
    _print(lens)
    if html is not None:
        typer.echo(f"\nPage: {html}")


def _arguments(first: str | None, second: str | None) -> tuple[str | None, str]:
    """Return model and prompt; a single argument is the prompt."""
    from quantxai.errors import InputError
    from quantxai.models import MODELS

    if second is not None:
        return first, second
    if first is None:
        raise InputError('give a prompt: quantxai inspect "The capital of France is"')
    if first in MODELS or (first and Path(first).is_dir()):
        raise InputError(
            f"'{first}' is a model; give a prompt, too: quantxai inspect {first} \"The capital of\""
        )
    return None, first


def _note_name(text: str, config: SweepConfig) -> None:
    """Say on stderr that a text taken as the prompt looks like a name; it may still be the prompt."""
    from difflib import get_close_matches

    from quantxai.errors import QuantxaiError
    from quantxai.models import MODELS, resolve
    from quantxai.variants import resolve_variants

    variants: list[str] = []
    with suppress(QuantxaiError):  # said where the model is asked for
        source = resolve(config.model.name, config.model.revision)
        variants = [v.name for v in resolve_variants(config, source)]
    close = get_close_matches(text, [*MODELS, *variants], n=1, cutoff=0.75)
    if close:
        kind = "model" if close[0] in MODELS else "variant"
        typer.echo(f"note: '{text}' is taken as the prompt; there is a {kind} called '{close[0]}'.", err=True)


@contextmanager
def _naming(path: Path | None) -> Iterator[None]:
    """Let errors about what a file asks for begin with its name."""
    from quantxai.errors import ConfigError, UnknownName

    try:
        yield
    except UnknownName as error:
        if path is None:
            raise
        raise ConfigError(f"{path}: {error}") from None


def _configuration(path: Path | None, model: str | None) -> SweepConfig:
    from quantxai.config import load_config, parse_config

    config = parse_config({}) if path is None else load_config(path)
    if model is None:
        return config
    changed = config.model.model_copy(update={"name": model, "revision": None})
    return config.model_copy(update={"model": changed})


def _check_page(html: Path | None) -> None:
    from quantxai.errors import InputError

    if html is not None and html.is_dir():
        raise InputError(f"--html {html}: is a directory; give the name of a file: {html / 'lens.html'}")


# -- the terminal --------------------------------------------------------------------------------


def _print(lens: Lens) -> None:
    """Print a table for each variant, or one for the parent alone, then the sentences."""
    from quantxai.report.lens import headline, quoted, summary, visible

    width = max(60, min(140, shutil.get_terminal_size((100, 24)).columns))
    prompt = " ".join(visible(token.text) for token in lens.tokens)
    _echo(wrapped(f"{lens.model}, {lens.parent.dtype} on {lens.parent.device}: {prompt}", 0))
    if lens.position != len(lens.tokens) - 1:
        _echo(f"read at token {lens.position}: {quoted(lens.tokens[lens.position].text)}")
    for other in lens.variants or (None,):
        shown = _table(lens, other, width)
    _echo(f"\n{_legend(lens, shown)}\n")
    _echo(_wrapped(headline(lens)))
    for reading in lens.variants:
        _echo(_wrapped(summary(lens, reading)))
    for note in lens.notes:
        _echo(_wrapped(visible(note, " "), 2, "! "))
    for reading in lens.readings:
        for warning in reading.warnings:
            _echo(wrapped(f"{reading.variant}: {warning}", 2, "! "))


def _table(lens: Lens, variant: Reading | None, width: int) -> int:
    """Print the parent's layers, and a variant's beside them; return how many tokens of each fit."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    readings = [lens.parent] if variant is None else [lens.parent, variant]
    wanted = len(lens.parent.last.top) or 1
    # Beside tokens stand layer (5), marks (2), ranks (4) and the last columns, with 2 between them all.
    fixed = 5 + 2 + 2 + 4 + 2 + 7 + 2 + 6 if variant is None else 5 + 2 * (2 + 2 + 4) + 2 + 2 + 5
    shown, room = _fitting((width - fixed) // len(readings), wanted)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("layer", justify="right", no_wrap=True)
    for reading in readings:
        table.add_column(_heading(reading.variant, reading is not variant, shown, room), no_wrap=True)
        table.add_column("rank", justify="right", no_wrap=True)
    for heading in ("entropy", "to end") if variant is None else ("KL",):
        table.add_column(heading, justify="right", no_wrap=True)
    for index in range(len(lens.parent.layers)):
        table.add_row(*_cells(lens, [reading.layers[index] for reading in readings], shown, room))
    console = Console(file=sys.stdout, width=width, highlight=False)
    with console.capture() as captured:
        console.print(table)
    _echo(f"\n{captured.get().rstrip()}")
    return shown


def _heading(name: str, unmarked: bool, shown: int, room: int) -> str:
    """Return the heading of a column of tokens, no wider than these."""
    width, full = shown * (room + _CHANCE + 1) - 1, f"{name}: most likely"
    fitted = full if len(full) <= width else name if len(name) <= width else f"{name[: width - 1]}…"
    return fitted if unmarked else f"  {fitted}"


def _cells(lens: Lens, layers: Sequence[LensLayer], shown: int, room: int) -> Iterator[Any]:
    """Yield one line of the table: a layer of the parent and, where given, of a variant."""
    from rich.text import Text

    from quantxai.lens import differs

    yield str(layers[0].layer)
    for layer in layers:
        tops = _tops(layer, lens.followed.token, shown, room)
        if layer is not layers[0]:
            mark = Text("* ", "bold red") if differs(layers[0], layer) else Text("  ")
            tops = mark + tops
        yield tops
        yield _rank(layer.rank)
    if len(layers) == 1:
        yield _number(layers[0].entropy)
        yield _number(layers[0].to_final)
    else:
        yield _number(layers[-1].kl)


def _legend(lens: Lens, shown: int) -> str:
    from quantxai.report.lens import quoted

    wanted = len(lens.parent.last.top)
    parts = [f"rank: of {quoted(lens.followed.text)}", ".62 is a probability"]
    parts += ["KL in nats", "* another top token"] if lens.variants else ["entropy and KL to the end in nats"]
    parts += [f"{shown} of {wanted} tokens fit this width"] if shown < wanted else []
    caveat = "early layers are not trained to be read: compare models at the same layer"
    return _wrapped(f"({'; '.join([*parts, caveat])})")


def _fitting(room: int, wanted: int) -> tuple[int, int]:
    """Return how many tokens of a layer are shown, and how many columns the text of each gets."""
    for shown in range(wanted, 0, -1):
        text = (room + 1) // shown - 1 - _CHANCE
        if text >= _LEAST_TEXT:
            return shown, min(text, _MOST_TEXT)
    return 1, _LEAST_TEXT


def _tops(layer: LensLayer, followed: int, shown: int, room: int) -> Any:
    """Return a layer's most likely tokens in columns, the followed one in bold."""
    from rich.cells import cell_len, set_cell_size
    from rich.text import Text

    from quantxai.report.lens import visible

    if not layer.top:
        return Text("not finite")
    parts = []
    for candidate in layer.top[:shown]:
        text = visible(candidate.text)
        fitted = set_cell_size(text, room) if cell_len(text) <= room else set_cell_size(text, room - 1) + "…"
        chance = f"{candidate.probability:.2f}"
        chance = chance[1:] if chance.startswith("0") else "1.0"
        parts.append(Text(f"{fitted} {chance}", "bold" if candidate.token == followed else ""))
    return Text(" ").join(parts)


def _rank(rank: int | None) -> str:
    """Return a rank in four columns: 9999, 12k."""
    if rank is None:
        return "-"
    return str(rank) if rank < 10_000 else f"{rank // 1000}k"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _wrapped(text: str, indent: int = 0, first: str = "") -> str:
    """Wrap a text without parting a token's opening quote from its leading space."""
    from quantxai.report.lens import unparted

    return wrapped(unparted(text, "\0"), indent, first).replace("\0", " ")


def _echo(text: str) -> None:
    """Print a line; characters that the terminal's encoding lacks are replaced."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        plain = text.translate({ord("␣"): "_", ord("…"): "."})
        text = plain.encode(encoding, "backslashreplace").decode(encoding)
    typer.echo(text)
