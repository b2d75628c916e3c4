"""What one variant made of one item: its texts, what its judges and scorers say, and the rest as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from quantxai.records import Metric
from quantxai.report.crossing import FLIPS, flip_metric
from quantxai.report.fields import Row, cut, inside, pairs, probability
from quantxai.report.marking import marked
from quantxai.report.text import count, level, metric_label

__all__ = ["Cell", "Observed", "Word", "make_cell"]


@dataclass(frozen=True)
class Word:
    """What a judge says of an edit.

    Attributes:
        judge: who it is.
        flips: whether its label is another one for the edit.
        says: the same in words.
        variant: the variant that judges the parent's edit; empty for the other judges.
    """

    judge: str
    flips: bool
    says: str
    variant: str = ""


@dataclass(frozen=True)
class Cell:
    """What one variant made of one item.

    Attributes:
        variant: its name.
        html: the texts, escaped, edits marked.
        note: a short line above them: labels, or rank and log-probability.
        outcome: yes, no, failed, or empty where nothing is known.
        outcomes: y, n or - for each of the section's outcomes; an f at the end where its generation failed.
        failure: why its generation failed; empty where it did not.
        words: what each judge says.
        chips: other yes/no outcomes.
        scores: other measurements, as one reads them.
        steps: title and texts of what came before or beside the main text.
    """

    variant: str
    html: Markup
    note: str
    outcome: str
    outcomes: str
    failure: str
    words: list[Word]
    chips: list[tuple[str, bool]]
    scores: list[tuple[str, str]]
    steps: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class Observed:
    """Everything stored about one item.

    Attributes:
        rows: known fields by variant, parent first.
        values: measurements by variant, then by metric.
        metrics: what each is, by its name here, in planned order.
        outcomes: the yes/no metrics items are filtered by, the one that marks a cell first.
        parent: name of the parent.
        layout: see items.Section.
        listed: fields without a place of their own that are shown for each variant.
    """

    rows: Mapping[str, Row]
    values: Mapping[str, Mapping[str, float]]
    metrics: Mapping[str, Metric]
    outcomes: Sequence[str]
    parent: str
    layout: str
    listed: Sequence[str]


def make_cell(observed: Observed, variant: str) -> Cell:
    """Work out what is shown of one variant."""
    row, values = observed.rows[variant], observed.values.get(variant, {})
    failure = metric_label(str(row.get("failure", row.get("problem", ""))))
    marks = ["-" if name not in values else "y" if values[name] > 0.5 else "n" for name in observed.outcomes]
    marking = bool(marks) and observed.outcomes[0] != "failure"
    outcome = {"y": "yes", "n": "no"}.get(marks[0], "") if marking else ""
    fact = observed.layout == "facts"
    known = {} if fact else {name: m for name, m in observed.metrics.items() if name in values}
    judged = "edited" in row and "failure" not in row
    return Cell(
        variant=variant,
        html=_fact(observed, row) if fact else _texts(row, observed.listed),
        note=_fact_note(row) if fact or observed.layout == "neurons" else _labels_note(row),
        outcome="failed" if failure else outcome,
        outcomes="".join(marks) + ("f" if failure else ""),
        failure=failure,
        words=list(_words(observed, variant)) if judged else [],
        chips=[
            (metric_label(name), values[name] > 0.5)
            for name, metric in known.items()
            if metric.kind == "binary" and name not in (*FLIPS, "failure")
        ],
        scores=[
            (metric_label(name), level(values[name], metric.unit))
            for name, metric in known.items()
            if metric.kind != "binary"
        ],
        steps=[(title, texts) for title, texts in _steps(row) if texts],
    )


def _texts(row: Row, listed: Sequence[str]) -> Markup:
    """The edit, the explanation, what was generated in place of a usable text, and the other fields."""
    parts = []
    if "original" in row and "edited" in row:
        parts.append(Markup("<p>{}</p>").format(marked(str(row["original"]), str(row["edited"]))))
    if "explanation" in row:
        parts.append(Markup("<p>{}</p>").format(str(row["explanation"])))
    if "failure" in row and row.get("raw"):
        parts.append(Markup("<p><q>{}</q></p>").format(cut(str(row["raw"]))))
    parts += [pairs(row, listed), inside(row)]
    return Markup("").join(parts)


def _labels_note(row: Row) -> str:
    """Predicted and target label, or the prediction, whether it is right, and what was said freely."""
    predicted = str(row.get("predicted", ""))
    if not predicted:
        return ""
    if "target" in row:
        return f"{predicted} → {row['target']}"
    right = {True: " ✓", False: " ✗"}[predicted == row["gold"]] if "gold" in row else ""
    said = f" · said: {row['said']}" if "said" in row and row["said"] != predicted else ""
    return f"{_own_label(row, 'scores', predicted)}{right}{said}"


def _own_label(row: Row, scores: str, label: str) -> str:
    labels, found = list(row.get("labels", ())), row.get(scores)
    return probability(label, found[labels.index(label)]) if found and label in labels else label


def _words(observed: Observed, variant: str) -> Iterator[Word]:
    """What every judge says of the variant's edit, those that were asked."""
    row, values = observed.rows[variant], observed.values.get(variant, {})
    target = str(row.get("target", ""))
    own = _word("itself", "own", values, target)
    if own is not None:
        labels = _own_labels(row)
        yield Word("itself", own.flips, labels or own.says)
    judges = {"parent": observed.parent, "independent": "independent judge"}
    for judge, name in judges.items():
        # The parent judging its own edits has spoken already.
        word = None if name == variant and own is not None else _word(name, judge, values, target)
        if word is not None:
            yield word
    if variant == observed.parent:
        for other in observed.rows:
            found = observed.values.get(other, {})
            word = None if other == variant else _word(other, "variant", found, target)
            if word is not None:
                yield Word(word.judge, word.flips, word.says, other)


def _own_labels(row: Row) -> str:
    """What the variant itself says of text and edit, with its probabilities."""
    labels, scores = list(row.get("labels", ())), row.get("edited_scores")
    if not labels or not scores or "predicted" not in row:
        return ""
    after = str(labels[max(range(len(scores)), key=scores.__getitem__)])
    before = _own_label(row, "original_scores", str(row["predicted"]))
    return f"{before} → {_own_label(row, 'edited_scores', after)}"


def _word(name: str, judge: str, values: Mapping[str, float], target: str) -> Word | None:
    """Soft and hard flip in words; one of them may not have been measured."""
    soft, hard = (values.get(flip_metric(judge, kind)) for kind in ("soft", "hard"))
    if soft is None and hard is None:
        return None
    reached = hard is not None and hard > 0.5
    if soft is None:
        return Word(name, reached, target if reached else f"not {target}")
    if hard is None:
        return Word(name, soft > 0.5, "another label" if soft > 0.5 else "same label")
    if soft > 0.5:
        return Word(name, True, f"{target}, as asked" if reached else f"another label, not {target}")
    return Word(name, False, f"{target} before and after" if reached else "same label")


def _steps(row: Row) -> Iterator[tuple[str, list[str]]]:
    steps = [str(step) for step in row.get("steps", ())]
    yield f"{count(len(steps), 'step')} before the edit", steps
    labels = list(row.get("sample_labels", ()))
    samples = [str(sample) or "(none)" for sample in row.get("samples", ())]
    if len(labels) == len(samples):
        samples = [f"{label}: {sample}" for label, sample in zip(labels, samples, strict=True)]
    yield count(len(samples), "sampled explanation"), samples


def _fact(observed: Observed, row: Row) -> Markup:
    first = next(iter(observed.rows.values()))
    completion = cut(str(row.get("completion", "")).strip())
    if row is first:
        return escape(completion)
    return marked(cut(str(first.get("completion", "")).strip()), completion)


def _fact_note(row: Row) -> str:
    notes = []
    if "rank" in row:
        notes.append(f"rank {row['rank']}")
    if "logprob" in row:
        notes.append(f"{row['logprob']:.2f}".replace("-", "\N{MINUS SIGN}"))
    return " · ".join(notes)
