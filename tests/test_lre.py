"""Relations as LRE publishes them: what counts as a text, what is let through, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantxai.datasets import load_dataset
from quantxai.errors import DataError

pytestmark = pytest.mark.bare

SAMPLES = [{"subject": f"s{k}", "object": f"o{k}"} for k in range(6)]


def write(path: Path, **changes: Any) -> Path:
    plain = {"name": "some relation", "prompt_templates": ["The {} is", "A {} is"], "samples": SAMPLES}
    path.write_text(json.dumps({**plain, **changes}), encoding="utf-8")
    return path


def sample(**changes: Any) -> dict[str, Any]:
    return {"subject": "France", "object": "Paris", **changes}


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_an_empty_object_is_let_through_and_never_shown(tmp_path: Path, empty: str | None) -> None:
    path = write(tmp_path / "r.json", samples=[sample(object=empty), *SAMPLES])
    dataset = load_dataset("lre", path)
    assert [(i.text, i.label) for i in dataset.items] == [
        ("France", ""),
        ("s3", "o3"),
        ("s4", "o4"),
        ("s5", "o5"),
    ]
    assert [d.label for d in dataset.demonstrations] == ["o0", "o1", "o2"]


def test_a_template_without_a_place_for_the_subject_is_let_through(tmp_path: Path) -> None:
    dataset = load_dataset("lre", write(tmp_path / "r.json", prompt_templates=["The capital is"]))
    assert {i.fields["template"] for i in dataset.items} == {"The capital is"}


def test_a_number_stands_for_its_text(tmp_path: Path) -> None:
    first = sample(subject=1066, object=7.5, aliases=["seven and a half"])
    dataset = load_dataset("lre", write(tmp_path / "r.json", samples=[*SAMPLES, first]))
    last = dataset.items[-1]
    assert (last.text, last.label, last.aliases) == ("1066", "7.5", ("seven and a half",))
    assert dataset.items[0].aliases == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aliases": None}, r"'aliases' is null; expected a list of texts"),
        ({"aliases": 5}, r"'aliases' is 5; expected a list of texts"),
        ({"aliases": "Paris"}, r"""'aliases' is "Paris"; expected a list of texts"""),
        ({"aliases": ["Paname", 75]}, r"""'aliases' is \["Paname", 75\]; expected a list of texts"""),
        ({"object": ["Paris"]}, r"""'object' is \["Paris"\]; expected a text"""),
        ({"object": True}, r"'object' is true; expected a text"),
        ({"subject": None}, r"'subject' is null; expected a text"),
        ({"subject": {"en": "x" * 80}}, r"""'subject' is \{"en": "x+\.\.\.; expected a text"""),
        ({"subject": " "}, r"has an empty subject; expected a text"),
    ],
)
def test_a_sample_of_other_types_is_refused_with_its_number(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "bad.json", samples=[*SAMPLES, sample(**changes)])
    with pytest.raises(DataError, match=r"bad\.json: sample 7:? " + message):
        load_dataset("lre", path)


@pytest.mark.parametrize("entry", [None, "France", ["France", "Paris"], 5])
def test_a_sample_that_is_no_object_is_refused_with_its_number(tmp_path: Path, entry: Any) -> None:
    with pytest.raises(DataError, match=r"bad\.json: sample 7 is .*; expected an object with subject"):
        load_dataset("lre", write(tmp_path / "bad.json", samples=[*SAMPLES, entry]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, r"'name' is null"),
        ({"name": " "}, r"""'name' is " \""""),
        ({"prompt_templates": "The {} is"}, r"""'prompt_templates' is "The \{\} is\""""),
        ({"prompt_templates": ["The {} is", 5]}, r"'prompt_templates' is \["),
        ({"prompt_templates": [" "]}, r"""'prompt_templates' is \[" "\]"""),
        ({"samples": {"subject": "a", "object": "b"}}, r"'samples' is \{"),
        ({"samples": None}, r"'samples' is null"),
    ],
)
def test_a_relation_of_other_types_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "bad.json", **changes)
    with pytest.raises(DataError, match=r"bad\.json: not a relation .*" + message + r".*expected an object"):
        load_dataset("lre", path)


def test_nothing_is_missing_from_the_built_in_relations() -> None:
    dataset = load_dataset("relations")
    for item in (*dataset.items, *dataset.demonstrations):
        assert item.text, item.id
        assert item.label, item.id
        assert item.fields["template"].count("{}") == 1, item.id
        assert all(alias.strip() for alias in item.aliases), item.id
