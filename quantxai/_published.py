"""Readers of published data formats: rows of a file or of the Hub become items, or a DataError."""

from __future__ import annotations

import ast
import csv
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from quantxai.errors import DataError, MissingExtra
from quantxai.records import Item

__all__ = [
    "AG_NEWS_COLUMNS",
    "ECQA_COLUMNS",
    "ESNLI_COLUMNS",
    "HEALTHFC_COLUMNS",
    "LETTERS",
    "SST2_COLUMNS",
    "Entry",
    "ag_news_items",
    "choice_text",
    "ecqa_items",
    "esnli_items",
    "file_entries",
    "healthfc_items",
    "hub_entries",
    "inference_text",
    "json_file",
    "lre_items",
    "relation_items",
    "sst2_items",
    "verification_text",
]

LETTERS = ("A", "B", "C", "D", "E")

ESNLI_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "premise": ("premise", "Sentence1"),
    "hypothesis": ("hypothesis", "Sentence2"),
    "label": ("label", "gold_label"),
    "explanation": ("explanation", "explanation_1", "Explanation_1"),
}
"""What is read from e-SNLI, each under the names its published copies use (the capitalised ones are
the authors' own files)."""

AG_NEWS_COLUMNS: Mapping[str, tuple[str, ...]] = {"text": ("text",), "label": ("label",)}

SST2_COLUMNS: Mapping[str, tuple[str, ...]] = {"sentence": ("sentence",), "label": ("label",)}

HEALTHFC_COLUMNS: Mapping[str, tuple[str, ...]] = {
    name: (name,) for name in ("en_claim", "en_sentences", "en_ids", "en_explanation", "label")
}
"""The English columns of HealthFC that are read: `en_sentences` is an article as a list of sentences in
Python's notation, `en_ids` the places (from 0) of those that annotators marked as evidence."""

ECQA_COLUMNS: Mapping[str, tuple[str, ...]] = {
    name: (name,) for name in ("q_text", "q_op1", "q_op2", "q_op3", "q_op4", "q_op5", "q_ans", "taskB")
}
"""What is read of the CSV files that ECQA's generate_data.py writes: `q_ans` is the text of an option,
`taskB` the explanation in free words."""

# The Hub stores class indices, local copies names.
_ESNLI_LABELS = {
    "entailment": "entailment",
    "neutral": "neutral",
    "contradiction": "contradiction",
    "0": "entailment",
    "1": "neutral",
    "2": "contradiction",
}
_AG_NEWS_LABELS = {
    "the world": "world",
    "world": "world",
    "sports": "sports",
    "business": "business",
    "science/tech": "technology",
    "sci/tech": "technology",
    "technology": "technology",
    "0": "world",
    "1": "sports",
    "2": "business",
    "3": "technology",
}
_SST2_LABELS = {"negative": "negative", "positive": "positive", "0": "negative", "1": "positive"}
_HEALTHFC_LABELS = {
    "supported": "supported",
    "not enough information": "not enough information",
    "refuted": "refuted",
    "0": "supported",
    "1": "not enough information",
    "2": "refuted",
}

# AG News lost the "&" of many entities and put a space there: "Haiti #39;s", "a  quot;foolish quot; move".
_ENTITY = re.compile(r"(?:&|(?<!\w))(#\d+|quot|apos|amp|lt|gt|nbsp);")
_JOINED = re.compile(r"(?<=\w) (?:(#39);(?=[a-z]{1,2}\b)|(amp);(?=\w))")
_CLOSING = re.compile(r"(?<=\S) (#39|quot);(?=\W|$)")
_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}(?:\\u[dD][c-fC-F][0-9a-fA-F]{2})?")


class Entry(NamedTuple):
    """One record of a source before it becomes an item."""

    number: int
    """Place among the source's records, from 1."""
    where: str
    """For messages: file and line, or Hub id and row."""
    values: dict[str, str]
    """The wanted columns, white space collapsed."""


def inference_text(premise: str, hypothesis: str) -> str:
    """Return a premise and a hypothesis as the one text of an inference item."""
    return f"Premise: {premise}\nHypothesis: {hypothesis}"


def verification_text(claim: str, evidence: str) -> str:
    """Return a claim and its evidence as the one text of a verification item."""
    return f"Claim: {claim}\nEvidence: {evidence}"


def choice_text(question: str, options: Sequence[str]) -> str:
    """Return a question and its five options, lettered A to E, as the one text of a choice item."""
    lettered = (f"{letter}: {option}" for letter, option in zip(LETTERS, options, strict=True))
    return "\n".join([question, *lettered])


def file_entries(path: Path, columns: Mapping[str, tuple[str, ...]]) -> Iterator[Entry]:
    """Read the wanted columns of a CSV file with a header line, or of a .tsv file as GLUE writes them.

    Args:
        path: the file; in one that ends in .tsv, tabs part the columns and quotes are plain characters.
        columns: wanted name -> accepted header names, the first one is documented.
    """
    tabs = path.suffix.casefold() == ".tsv"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = (
                csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.DictReader(file)
            )
            found = _columns(str(path), columns, reader.fieldnames or ())
            for number, record in enumerate(reader, 1):
                where = f"{path}, line {reader.line_num}"
                yield Entry(number, where, {k: _clean(record[c], where, k) for k, c in found.items()})
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a UTF-8 CSV file: {error}") from error


def hub_entries(
    hub_id: str, revision: str, split: str, columns: Mapping[str, tuple[str, ...]]
) -> Iterator[Entry]:
    """Read the wanted columns of a data set on the Hugging Face Hub.

    Raises:
        DataError: it cannot be downloaded, or has other columns.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "models", f"downloading {hub_id}") from error
    try:
        table: Any = datasets.load_dataset(hub_id, split=split, revision=revision)
    except Exception as error:  # whatever the download runs into, the remedy is the same
        lines = str(error).splitlines() or [""]
        raise DataError(
            f"cannot download {hub_id} at revision {revision} ({type(error).__name__}: {lines[0]}). "
            "Give the path of a local copy in the published format instead."
        ) from error
    found = _columns(hub_id, columns, table.column_names)
    for number, record in enumerate(table, 1):
        where = f"{hub_id}, row {number}"
        yield Entry(number, where, {k: _clean(record[c], where, k) for k, c in found.items()})


def esnli_items(entries: Iterable[Entry]) -> Iterator[Item]:
    """Turn e-SNLI records (Camburu et al. 2018) into inference items grouped by premise."""
    for entry in entries:
        premise, hypothesis = _text(entry, "premise"), _text(entry, "hypothesis")
        yield Item(
            id=f"esnli-{entry.number:06d}",
            text=inference_text(premise, hypothesis),
            label=_label(entry, _ESNLI_LABELS),
            group=premise,
            fields={
                "premise": premise,
                "hypothesis": hypothesis,
                "explanation": entry.values["explanation"],
            },
        )


def ag_news_items(entries: Iterable[Entry]) -> Iterator[Item]:
    """Turn AG News records (Zhang et al. 2015) into topic items with our four labels."""
    for entry in entries:
        key = f"ag_news-{entry.number:06d}"
        text = _restore(_text(entry, "text"))
        yield Item(id=key, text=text, label=_label(entry, _AG_NEWS_LABELS), group=key)


def sst2_items(entries: Iterable[Entry]) -> Iterator[Item]:
    """Turn SST-2 records (Socher et al. 2013, as in GLUE) into sentiment items."""
    for entry in entries:
        key = f"sst2-{entry.number:06d}"
        yield Item(id=key, text=_text(entry, "sentence"), label=_label(entry, _SST2_LABELS), group=key)


def healthfc_items(entries: Iterable[Entry]) -> Iterator[Item]:
    """Turn HealthFC records (Vladika et al. 2024, arXiv 2309.08503) into verification items by claim.

    The evidence is the annotated sentences of the article, in its order, not the whole article.
    """
    for entry in entries:
        claim, evidence = _text(entry, "en_claim"), _evidence(entry)
        yield Item(
            id=f"healthfc-{entry.number:06d}",
            text=verification_text(claim, evidence),
            label=_label(entry, _HEALTHFC_LABELS),
            group=claim,
            fields={"claim": claim, "evidence": evidence, "explanation": entry.values["en_explanation"]},
        )


def ecqa_items(entries: Iterable[Entry]) -> Iterator[Item]:
    """Turn ECQA records (Aggarwal et al. 2021) into choice items by question.

    Where an option occurs twice, its first letter is the label and the others are aliases.
    """
    for entry in entries:
        question = _text(entry, "q_text")
        options = [_text(entry, f"q_op{number}") for number in range(1, 6)]
        answer = _text(entry, "q_ans")
        right = [letter for letter, option in zip(LETTERS, options, strict=True) if option == answer]
        if not right:
            raise DataError(
                f"{entry.where}: the answer '{answer}' is none of the options {', '.join(map(repr, options))}; "
                "expected column 'q_ans' to hold one of them"
            )
        yield Item(
            id=f"ecqa-{entry.number:06d}",
            text=choice_text(question, options),
            label=right[0],
            group=question,
            fields={
                "question": question,
                **dict(zip(LETTERS, options, strict=True)),
                "explanation": entry.values["taskB"],
            },
            aliases=tuple(right[1:]),
        )


def lre_items(path: Path) -> Iterator[Item]:
    """Read LRE relations (Hernandez et al. 2024): one JSON file, or every one below a directory."""
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: holds no .json file; expected one file per relation")
    seen: dict[str, Path] = {}
    for file in files:
        for item, _ in relation_items(file, json_file(file)):
            if seen.setdefault(item.group, file) != file:
                raise DataError(f"{file}: relation '{item.group}' is already in {seen[item.group]}")
            yield item


def relation_items(file: Path, relation: Any) -> Iterator[tuple[Item, str]]:
    """Yield the facts of one relation in LRE's form, each with its split ("" where it has none).

    The published samples hold a subject and an object; ours also aliases and a split. Several objects
    of one subject are facts of their own. An empty object is let through, and a template that does not
    name the subject: whoever asks counts them.
    """
    relation = _unescape(relation)
    name, template, samples = _relation_parts(file, relation)
    slug = re.sub(r"\W+", "_", name.strip()).lower()
    for number, sample in enumerate(samples, 1):
        subject, obj, aliases = _sample_parts(f"{file}: sample {number}", sample)
        fields = {"relation": name, "template": template, "subject": subject}
        item = Item(
            id=f"{slug}-{number:04d}", text=subject, label=obj, group=name, fields=fields, aliases=aliases
        )
        yield item, str(sample.get("split", ""))
    if not samples:
        raise DataError(f"{file}: holds no samples; expected at least one subject and object")


def json_file(path: Path) -> Any:
    """Parse a JSON file; what goes wrong is a DataError that names file and line."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a UTF-8 JSON file: {error}") from error


def _columns(source: str, wanted: Mapping[str, tuple[str, ...]], present: Iterable[str]) -> dict[str, str]:
    names = list(present)
    found = {key: next((n for n in accepted if n in names), None) for key, accepted in wanted.items()}
    missing = [key for key, name in found.items() if name is None]
    if missing:
        raise DataError(
            f"{source}, line 1: column {', '.join(map(repr, missing))} is missing; "
            f"expected {', '.join(wanted)}, found {', '.join(names) or 'an empty file'}"
        )
    return {key: name for key, name in found.items() if name is not None}


def _clean(value: object, where: str, column: str) -> str:
    if value is None:
        raise DataError(f"{where}: has no value for column '{column}'; expected one value per column")
    return " ".join(str(value).split())


def _text(entry: Entry, column: str) -> str:
    if not entry.values[column]:
        raise DataError(f"{entry.where}: column '{column}' is empty; expected a text")
    return entry.values[column]


def _label(entry: Entry, names: Mapping[str, str]) -> str:
    label = names.get(entry.values["label"].casefold())
    if label is None:
        allowed = ", ".join(n for n in names if not n.isdigit())
        raise DataError(f"{entry.where}: unknown label '{entry.values['label']}'; expected one of {allowed}")
    return label


def _evidence(entry: Entry) -> str:
    """Join the sentences that `en_ids` points at."""
    lists: dict[str, list[Any]] = {}
    for column, kind in (("en_sentences", str), ("en_ids", int)):
        try:
            found = ast.literal_eval(entry.values[column])
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            found = None
        if not (isinstance(found, list) and all(type(value) is kind for value in found)):
            raise DataError(
                f"{entry.where}: column '{column}' is not a list of {kind.__name__} in Python's notation, "
                f"found {entry.values[column][:60]!r}"
            )
        lists[column] = found
    sentences, places = lists["en_sentences"], lists["en_ids"]
    if outside := [place for place in places if not 0 <= place < len(sentences)]:
        raise DataError(
            f"{entry.where}: column 'en_ids' holds {outside[0]}, but there are {len(sentences)} sentences"
        )
    evidence = " ".join(" ".join(sentences[place] for place in sorted(set(places))).split())
    if not evidence:
        raise DataError(f"{entry.where}: column 'en_ids' points at no text; expected at least one sentence")
    return evidence


def _restore(text: str) -> str:
    """Undo HTML entities, whole or without their "&", and the backslashes that stand for line breaks."""
    text = text.replace("\\$", "$").replace("\\", " ")
    text = _CLOSING.sub(r"&\1;", _JOINED.sub(r"&\1\2;", text))
    text = _ENTITY.sub(r"&\1;", text)
    return " ".join(html.unescape(text).split())


def _relation_parts(file: Path, relation: Any) -> tuple[str, str, list[Any]]:
    """Return a relation's name, its first template and its samples; what is none of it is refused."""
    expected = (
        "expected an object with name (a text), prompt_templates (a list of texts) and samples (a list of "
        "subject and object)"
    )
    if not isinstance(relation, dict):
        raise DataError(
            f"{file}: not a relation as LRE publishes them (found {_brief(relation)}); {expected}"
        )
    parts: list[Any] = [relation.get(key) for key in ("name", "prompt_templates", "samples")]
    name, templates, samples = parts
    sound = {
        "name": isinstance(name, str) and name.strip(),
        "prompt_templates": isinstance(templates, list)
        and templates
        and all(isinstance(template, str) for template in templates)
        and templates[0].strip(),
        "samples": isinstance(samples, list),
    }
    for key, is_sound in sound.items():
        if not is_sound:
            found = f"is {_brief(relation[key])}" if key in relation else "is missing"
            raise DataError(f"{file}: not a relation as LRE publishes them ('{key}' {found}); {expected}")
    template = templates[0]
    if template.count("{}") > 1:
        raise DataError(
            f"{file}: prompt_templates[0] must hold '{{}}' once for the subject, found {template!r}"
        )
    return name, template, samples


def _sample_parts(where: str, sample: Any) -> tuple[str, str, tuple[str, ...]]:
    """Return a sample's subject, object and aliases; a number stands for its text, a null object for none."""
    if not isinstance(sample, dict):
        raise DataError(f"{where} is {_brief(sample)}; expected an object with subject and object")
    texts: dict[str, str] = {}
    for key in ("subject", "object"):
        if key not in sample:
            raise DataError(f"{where} has no '{key}'; expected an object with subject and object")
        value = "" if key == "object" and sample[key] is None else sample[key]
        # To Python, true and false are numbers.
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise DataError(f"{where}: '{key}' is {_brief(value)}; expected a text")
        texts[key] = str(value).strip()
    if not texts["subject"]:
        raise DataError(f"{where} has an empty subject; expected a text")
    aliases = sample.get("aliases", [])
    if not (isinstance(aliases, list) and all(isinstance(alias, str) for alias in aliases)):
        raise DataError(
            f"{where}: 'aliases' is {_brief(aliases)}; expected a list of texts, or no 'aliases' at all"
        )
    return texts["subject"], texts["object"], tuple(aliases)


def _brief(value: Any) -> str:
    """A JSON value as its file holds it, for messages."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unescape(value: Any) -> Any:
    r"""Replace literal \uXXXX escapes (a published file was escaped twice) in every string."""
    if isinstance(value, str):
        return _ESCAPE.sub(lambda m: str(json.loads(f'"{m.group()}"')), value)
    if isinstance(value, list):
        return [_unescape(v) for v in value]
    if isinstance(value, dict):
        return {k: _unescape(v) for k, v in value.items()}
    return value
