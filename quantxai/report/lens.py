"""A logit lens for people: its sentences, and a page of its own that needs no network and no script."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from quantxai import __version__
from quantxai.lens import Lens, Reading, agrees_from, differs
from quantxai.report.plots import SHAPES, shape, ticks
from quantxai.report.rendering import environment, resource, self_contained
from quantxai.report.text import listing, significant

__all__ = ["headline", "lens_page", "probability", "quoted", "summary", "unparted", "visible"]

_SPACE = "\N{OPEN BOX}"
_INVISIBLE = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"}
"""Unicode categories that show nothing, or change what is shown beside them."""
_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def visible(text: str, space: str = _SPACE) -> str:
    r"""Return a text of which every character can be seen: spaces marked, invisible ones escaped.

    Example:
        >>> print(visible(" the\n"))
        ␣the\n
    """
    return "".join(space if character == " " else _shown(character) for character in text)


def _shown(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if unicodedata.category(character) in _INVISIBLE:
        code = ord(character)
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    return f"\N{DOTTED CIRCLE}{character}" if unicodedata.combining(character) else character


def quoted(text: str) -> str:
    """Return a token as sentences have it: in quotes, its spaces as they are."""
    return f"'{visible(text, ' ')}'"


def unparted(text: str, space: str = "\N{NO-BREAK SPACE}") -> str:
    """Return a sentence in which no line can end between a quote and the space of its token."""
    return re.sub(r"(?<![^\s(])' (?=\S)", f"'{space}", text)


def probability(value: float) -> str:
    """Return a probability with two significant digits, `0.62` or `0.00041`."""
    return significant(value, 2)


def headline(lens: Lens) -> str:
    """Return what each of them would say next, in a sentence."""
    end = lens.position == len(lens.tokens) - 1
    where = "the prompt" if end else f"token {lens.position}, {quoted(lens.tokens[lens.position].text)}"
    said: dict[str, list[str]] = {}
    for reading in lens.readings:
        top = reading.last.top
        word = quoted(top[0].text) if top else "nothing: its numbers are not finite"
        chance = f" ({probability(top[0].probability)})" if top else ""
        said.setdefault(word, []).append(reading.variant + chance)
    parts = [f"{word} for {listing(names)}" for word, names in said.items()]
    return f"After {where}, the most likely token is {'; '.join(parts)}."


def summary(lens: Lens, variant: Reading) -> str:
    """Return how one variant compares with the parent, in a sentence."""
    parent, token = lens.parent, quoted(lens.followed.text)
    if not variant.last.top:
        return f"{variant.variant} is broken: its numbers are not finite at the last layer."
    start = agrees_from(parent, variant)
    if start is None:
        first = f"ends with another top token than {parent.variant}"
    elif start == 0:
        first = f"has the top token of {parent.variant} at every layer"
    elif start == variant.last.layer:
        first = f"has the top token of {parent.variant} at the last layer, but not at the one before"
    else:
        first = f"gives the same top token as {parent.variant} from layer {start} on"
    ours, theirs = variant.last, parent.last
    said = f"at the last layer its probability of {token} is {_chance(ours)} against {_chance(theirs)}"
    if ours.rank != 1 or theirs.rank != 1:
        said += f" (rank {ours.rank:,} against {theirs.rank:,})"
    distance = (
        ""
        if ours.kl is None
        else f", and its KL divergence from {parent.variant} is {significant(ours.kl, 2)} nats"
    )
    return f"{variant.variant} {first}; {said}{distance}."


def _chance(layer: Any) -> str:
    return "unknown" if layer.logprob is None else probability(math.exp(layer.logprob))


def lens_page(lens: Lens) -> bytes:
    """Return the page: one HTML file, complete in itself."""
    rendered = (
        environment()
        .get_template("lens.html.j2")
        .render(
            lens=lens,
            version=__version__,
            headline=unparted(headline(lens)),
            summaries=[unparted(summary(lens, variant)) for variant in lens.variants],
            figures=_figures(lens),
            legend=_legend([r.variant for r in lens.readings]),
            rows=[_row(lens, layer) for layer in range(len(lens.parent.layers))],
            notes=[unparted(visible(note, " ")) for note in lens.notes],
            visible=visible,
            quoted=quoted,
            significant=significant,
            **self_contained([resource("report.css"), resource("lens.css")]),
        )
    )
    return rendered.encode("utf-8", "replace")


def _row(lens: Lens, index: int) -> dict[str, Any]:
    """One line of the table: a layer of every reading, and which of them differ from the parent."""
    layers = [reading.layers[index] for reading in lens.readings]
    other = [differs(layers[0], layer) for layer in layers]
    return {"layer": index, "cells": list(zip(layers, other, strict=True)), "same": not any(other)}


# -- pictures ------------------------------------------------------------------------------------

WIDTH, HEIGHT = 420, 216
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 10, 36


def _figures(lens: Lens) -> list[tuple[str, str, Markup]]:
    """Return (title, note, picture) of every quantity over the layers."""
    token = visible(lens.followed.text)
    parent = lens.parent.variant
    wanted: list[tuple[str, str, str]] = [
        (f"How likely {token} is", "log-probability in nats; 0 is certain", "logprob"),
        ("How undecided it is", "entropy in nats; 0 is one token alone", "entropy"),
    ]
    if lens.variants:
        note = f"KL divergence from {parent} at the same layer, nats; 0 is the same"
        wanted.insert(1, ("How far quantization moved it", note, "kl"))
    else:
        note = "KL divergence from it to what the model finally says, nats"
        wanted.append(("How far it is from its end", note, "to_final"))
    found = []
    for title, note, field in wanted:
        lines = [
            (style, r.variant, [getattr(layer, field) for layer in r.layers])
            for style, r in enumerate(lens.readings)
        ]
        found.append((title, note, _picture(f"{title}: {note}, by layer", lines)))
    return found


Line = tuple[int, str, list[float | None]]
"""Style, name, and a value for each layer."""


def _picture(title: str, lines: Sequence[Line]) -> Markup:
    """Return values over layers as SVG, a line for each variant that has any."""
    lines = [line for line in lines if any(v is not None for v in line[2])]
    if not lines:
        return Markup("<p>No number is finite.</p>")
    known = [v for _, _, values in lines for v in values if v is not None]
    marks, count = ticks(min([0.0, *known]), max([0.0, *known])), max(len(values) for _, _, values in lines)

    def x(layer: int) -> float:
        return round(LEFT + layer * (WIDTH - LEFT - RIGHT) / max(count - 1, 1), 1)

    def y(value: float) -> float:
        share = (value - marks[0]) / (marks[-1] - marks[0])
        return round(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP), 1)

    body = [_rule(y(mark), mark) for mark in marks]
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100) if count / s <= 9)
    body += [
        Markup('<text class="bits" x="{}" y="{}">{}</text>').format(x(layer), HEIGHT - BOTTOM + 15, layer)
        for layer in range(0, count, step)
    ]
    body.append(
        Markup('<text class="bits" x="{}" y="{}">layer</text>').format((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4)
    )
    body += [_line(line, x, y, step) for line in lines]
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, title, Markup("").join(body)
    )


def _rule(y: float, value: float) -> Markup:
    return Markup(
        '<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/><text class="num" x="{}" y="{}">{}</text>'
    ).format(LEFT, WIDTH - RIGHT, LEFT - 6, y + 3.5, f"{value:.10g}".replace("-", "\N{MINUS SIGN}"), y=y)


def _line(line: Line, x: Any, y: Any, step: int) -> Markup:
    """One variant's line, in pieces where a value is missing, with its marker now and then."""
    style, name, values = line
    pieces, piece = [], list[str]()
    for layer, value in enumerate([*values, None]):
        if value is not None:
            piece.append(f"{x(layer)},{y(value)}")
        elif piece:
            pieces.append(Markup('<polyline class="curve" points="{}"/>').format(" ".join(piece)))
            piece = []
    spots = [
        Markup("<g><title>{}</title>{}</g>").format(
            f"{name}, layer {layer}: {significant(value)}", shape(style, x(layer), y(value))
        )
        for layer, value in enumerate(values)
        if value is not None and (layer % step == 0 or layer == len(values) - 1)
    ]
    return Markup('<g class="{} shown">{}</g>').format(_style(style), Markup("").join([*pieces, *spots]))


def _style(number: int) -> str:
    """The parent's colour is the text's; variants take turns."""
    return f"s{(number - 1) % len(SHAPES)}" if number else "ours"


def _legend(names: Sequence[str]) -> Markup:
    return Markup("").join(
        Markup('<li><svg class="key {} shown" viewBox="0 0 14 14" aria-hidden="true">{}</svg>{}</li>').format(
            _style(style), shape(style, 7, 7), name
        )
        for style, name in enumerate(names)
    )
