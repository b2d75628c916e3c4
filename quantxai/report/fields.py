"""The fields of a row as a reader wants them: in plain words, short, long lists and texts cut."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from quantxai.report.text import change, metric_label, significant

__all__ = ["PLACED", "Row", "cut", "field_label", "inside", "pairs", "probability", "value"]

Row = Mapping[str, Any]

_LONGEST = 400
"""Characters of a raw text or value that are shown."""
_MOST_NUMBERS = 12
"""Numbers of a list that are shown."""
_SHORT_LIST = 80
"""Characters up to which a list of texts stays on a line."""
PLACED = frozenset(
    {
        *("text", "part", "original", "prompt", "context", "gold", "reference"),
        *("edited", "explanation", "completion", "raw", "failure", "predicted", "target", "said"),
        *("labels", "original_scores", "edited_scores", "steps", "samples", "sample_labels"),
        *("stopped", "tokens", "aliases", "logprob", "rank", "players"),
        *(
            "neuron_layers",
            "neuron_indices",
            "neuron_scores",
            "query_layers",
            "query_indices",
            "query_scores",
        ),
        *(
            "ffn_scores",
            "attention_scores",
            "head_scores",
            "heads",
            "problem",
            "two_hop_prompt",
            "bridge_aliases",
        ),
        *("entrec", "entrec_entity", "entrec_relation", "causal_layers", "causal_derivatives", "cnst", "jsd"),
    }
)
"""Fields with a place of their own, or of no interest item by item; all others are listed."""

_OF_PLAYERS = ("to_prediction", "to_explanation")
"""Lists with a number for each of the row's `players`."""
_MOST_PLAYERS = 6
"""Of them those that are shown: the ones that matter most."""
_MOST_PLACES = 3
"""Neurons and layers of a fact that are shown, likewise."""
_FIELDS = {
    "to_prediction": "most for the prediction",
    "to_explanation": "most for the explanation",
    "scores": "labels",
    "tried": "insertions tried",
    "flipped": "insertions that flip",
    "inserted": "inserted word",
    "place": "words before it",
    "edited_predicted": "prediction then",
    "sentences": "chain of thought",
    "early": "answers after none, one … of its sentences",
    "mistake": "sentences before the mistake",
    "mistaken": "sentence with the mistake",
    "continued": "how it goes on",
    "mistaken_predicted": "answer then",
    "suggested": "suggested label",
    "remark": "in the words",
    "biased_predicted": "prediction then",
    "two_hop_completion": "answer",
    "first_prompt": "first hop",
    "first_completion": "first hop",
    "second_prompt": "second hop",
    "second_completion": "second hop",
    "entity_prompt": "with another subject",
    "relation_prompt": "with another relation",
    "certain": "neurons proven the best",
    "query_problem": "no query neurons",
}
"""What fields are called where their names alone say too little."""


def field_label(name: str) -> str:
    """Return a field's name for reading."""
    return _FIELDS.get(name, metric_label(name))


def pairs(row: Row, names: Sequence[str]) -> Markup:
    """Return the named fields a row has, as a list of terms and values."""
    body = Markup("").join(
        Markup("<dt>{}</dt><dd>{}</dd>").format(field_label(name), value(row[name], row, name))
        for name in names
        if row.get(name) not in (None, "", [])
    )
    return Markup("<dl>{}</dl>").format(body) if body else body


def value(of: Any, row: Row | None = None, name: str = "") -> str | Markup:
    """Return a stored value as a reader wants it: short, long lists and texts cut, escaped where HTML.

    Args:
        of: a scalar or a list of them.
        row: where it is from: `labels` says what scores are about.
        name: of the field.
    """
    if not isinstance(of, list | tuple):
        return significant(of) if isinstance(of, float) else cut(str(of))
    labels = (row or {}).get("labels") or []
    if name.endswith("scores") and len(labels) == len(of):
        return ", ".join(probability(label, score) for label, score in zip(labels, of, strict=True))
    players = (row or {}).get("players") or []
    if name in _OF_PLAYERS and len(players) == len(of):
        return _contributions(players, of)
    if any(isinstance(part, str) for part in of):
        if sum(map(len, map(str, of))) <= _SHORT_LIST:
            return ", ".join(map(str, of))
        parts = (Markup("<li>{}</li>").format(cut(str(part))) for part in of)
        return Markup("<ol>{}</ol>").format(Markup("").join(parts))
    shown = ", ".join(str(value(part)) for part in of[:_MOST_NUMBERS])
    return shown if len(of) <= _MOST_NUMBERS else f"{shown}, … ({len(of)} in all)"


def inside(row: Row) -> Markup:
    """Return what was found inside the model, the strongest alone, as a list of terms and values."""
    told = {
        "neurons": _neurons(row, "neuron"),
        "query neurons": _neurons(row, "query"),
        "FFN layers": _layers(row.get("ffn_scores")),
        "attention layers": _layers(row.get("attention_scores")),
        "bridge recalled best": _bridge(row.get("entrec") or []),
    }
    return pairs(told, list(told))


def _neurons(row: Row, kind: str) -> str:
    columns = (row.get(f"{kind}_{name}") or [] for name in ("layers", "indices", "scores"))
    best = list(zip(*columns, strict=False))[:_MOST_PLACES]
    return ", ".join(f"{layer}.{index}\N{NO-BREAK SPACE}{change(score, '')}" for layer, index, score in best)


def _bridge(entrec: Sequence[float]) -> str:
    """The layer where it is the likeliest; the last number is of what enters the final norm."""
    if len(entrec) < 2:
        return ""
    best = max(range(1, len(entrec)), key=entrec.__getitem__)
    place = "final norm" if best == len(entrec) - 1 else f"layer\N{NO-BREAK SPACE}{best}"
    return f"{place}, {change(entrec[best], '', 2)}"


def _layers(of: Sequence[float] | None) -> str:
    values = of or []
    best = sorted(range(len(values)), key=lambda layer: -values[layer])[:_MOST_PLACES]
    return ", ".join(f"{n}\N{NO-BREAK SPACE}{change(values[n], '', 2)}" for n in best)


def probability(label: str, score: float) -> str:
    """Return a label with the probability that its log-probability in nats stands for."""
    return f"{label} {100 * math.exp(min(score, 0.0)):.0f}\N{NO-BREAK SPACE}%"


def cut(text: str) -> str:
    """Return a text, or its beginning."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _contributions(players: Sequence[str], of: Sequence[float]) -> str:
    order = sorted(range(len(of)), key=lambda place: -abs(of[place]))[:_MOST_PLAYERS]
    return ", ".join(f"{players[place]} {change(of[place], '', 2)}" for place in order)
