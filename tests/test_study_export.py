"""What leaves a study: tables, codebooks, formulas that stay text, the anonymised package, the Potato project."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from study_support import make_study

from quantxai.errors import InputError
from userstudy.database.engine import open_database, transaction
from userstudy.database.models import Answer, Exclusion, Identity, Participant, Trial
from userstudy.enrolment import noted_every
from userstudy.export import ExportOptions, data_package, read_csv, to_csv, write_export
from userstudy.export.codebook import PARTICIPANTS
from userstudy.export.package import SMALLEST_GROUP, anonymised, publishable
from userstudy.export.potato import potato_project
from userstudy.order import order
from userstudy.ratings import COLUMNS
from userstudy.study import Study

FORMULA = '=HYPERLINK("http://evil.example",A1)'
PROLIFIC = "hash-of-a-prolific-id"
AT = datetime(2026, 3, 1, 12)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path / "study")


@pytest.fixture
def engine(study: Study) -> Iterator[Engine]:
    """Two people, of whom the first wrote a formula and changed their mind, and a preview."""
    engine = open_database(study)
    with transaction(engine) as session:
        for number, kind in ((1, "human"), (2, "human"), (3, "preview")):
            session.add(
                Participant(
                    id=number, key=f"secret-{number}", kind=kind, language="en", form=0, seed=number,
                    status="completed", stage="debrief", position=7, check_failures=0, code="C0DE",
                    device="phone", consented_at=AT, seen_at=AT, ended_at=AT.replace(minute=30),
                )
            )  # fmt: skip
            session.flush()
            for position, planned in enumerate(order(study.design.forms[0], seed=number)):
                trial = Trial(
                    participant_id=number, position=position, kind=planned.kind, stimuli=list(planned.stimuli),
                    seconds=10.4, shown_at=AT, left_at=AT,
                )  # fmt: skip
                session.add(trial)
                session.flush()
                answers = [("understandability", "2"), ("understandability", "5"), ("remark", FORMULA)]
                for place, (question, value) in enumerate(answers):
                    session.add(
                        Answer(
                            participant_id=number, trial_id=trial.id, question=question, value=value,
                            key=f"{position}-{place}", at=AT,
                        )
                    )  # fmt: skip
        session.add(Identity(participant_id=1, kind="prolific", hash=PROLIFIC, session_hash="s"))
        session.add(Exclusion(participant_id=2, reason="-1 wrote to us", at=AT, revoked_at=None))
    yield engine
    engine.dispose()


def test_tables_and_their_codebook(study: Study, engine: Engine, tmp_path: Path) -> None:
    out = tmp_path / "out"
    written = write_export(study, engine, out, ExportOptions(history=True))
    assert {file.name for file in written} == {
        "ratings.csv", "participants.csv", "stimuli.csv", "history.csv", "codebook.json", "codebook.md",
    }  # fmt: skip
    ratings, people = (read_csv((out / f"{name}.csv").read_bytes()) for name in ("ratings", "participants"))
    assert list(ratings) == list(COLUMNS)
    assert people.participant.tolist() == [1, 2]
    assert people.minutes.tolist() == [30.0, 30.0]
    assert people.seconds.tolist() == pytest.approx([83.2, 83.2])
    assert people.excluded.tolist()[1] == "-1 wrote to us"
    pages = len(study.design.forms[0].trials)
    history = read_csv((out / "history.csv").read_bytes())
    assert len(history) == 2 * pages * 3
    rated = ratings[(ratings.question == "understandability") & (ratings.kind == "rating")]
    assert set(rated.value) == {5.0}
    book = json.loads((out / "codebook.json").read_text())
    for name in ("ratings", "participants", "stimuli", "history"):
        header = next(csv.reader(io.StringIO((out / f"{name}.csv").read_text())))
        assert list(book["tables"][name]) == header
        assert all(book["tables"][name].values())


def test_when_somebody_was_there_last_is_as_exact_as_the_codebook_says(study: Study) -> None:
    assert noted_every(study) <= timedelta(minutes=1)
    assert "up to a minute too early" in PARTICIPANTS["seen_at"]


def test_formulas_are_texts_in_every_csv(study: Study, engine: Engine, tmp_path: Path) -> None:
    write_export(study, engine, tmp_path / "out", ExportOptions(history=True, texts=True))
    for file in (tmp_path / "out").glob("*.csv"):
        for row in csv.reader(io.StringIO(file.read_text())):
            for cell in row:
                number = cell.lstrip("-").replace(".", "").isdigit()
                assert number or not cell.startswith(("=", "+", "-", "@", "\t", "\r")), (file, cell)
    assert f"'{FORMULA}" in pd.read_csv(tmp_path / "out" / "ratings.csv").text.tolist()


def test_identifiers_only_on_request(study: Study, engine: Engine, tmp_path: Path) -> None:
    write_export(study, engine, tmp_path / "plain", ExportOptions(history=True, texts=True, potato=True))
    everything = b"".join(file.read_bytes() for file in (tmp_path / "plain").rglob("*") if file.is_file())
    for secret in (PROLIFIC, "C0DE", "secret-1", study.secret.decode()):
        assert secret.encode() not in everything
    write_export(study, engine, tmp_path / "asked", ExportOptions(identifiers=True))
    people = read_csv((tmp_path / "asked" / "participants.csv").read_bytes())
    assert people.identity_hash.tolist()[0] == PROLIFIC
    assert people.code.tolist() == ["C0DE", "C0DE"]
    assert "secret-1" not in (tmp_path / "asked" / "participants.csv").read_text()


def test_parquet_has_the_texts_as_they_are(study: Study, engine: Engine, tmp_path: Path) -> None:
    write_export(study, engine, tmp_path / "out", ExportOptions(format="parquet"))
    assert FORMULA in pq.read_table(tmp_path / "out" / "ratings.parquet")["text"].to_pylist()


def test_a_file_is_no_directory(study: Study, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="is a file"):
        write_export(study, engine, tmp_path / "out", ExportOptions())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)))
@example(["'quoted", "''", "'=1", "=1", "-1", "1", "\r", "a\rb", "\ufeff", "None", "nan"])
def test_csv_gives_every_text_back(texts: list[str]) -> None:
    table = pd.DataFrame({"number": range(len(texts)), "text": pd.Series(texts, dtype=object)})
    again = read_csv(to_csv(table))
    assert again["number"].tolist() == table["number"].tolist()
    assert again["text"].tolist() == texts


def ratings(devices: list[str], languages: list[str]) -> pd.DataFrame:
    """One answer of each participant, and one in free text."""
    rows = [
        dict.fromkeys(COLUMNS, "") | {
            "participant": number, "device": device, "language": language, "position": 0, "seconds": 12.34,
            "question": question, "scale": scale, "text": text, "at": AT,
            "excluded": "she called" if number == 1 else "", "value": 3.0 if scale == "likert" else None,
        }
        for number, (device, language) in enumerate(zip(devices, languages, strict=True), 1)
        for question, scale, text in (("good", "likert", "3"), ("why", "text", "I am Anna"))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_package_names_nobody(study: Study) -> None:
    table = ratings(["phone"] * 6, ["en"] * 6)
    package = data_package(study, table)
    everything = b"".join(package.values())
    for told in (b"Anna", b"she called", b"2026-03-01", b"12.34"):
        assert told not in everything
    shown = read_csv(package["ratings.csv"])
    assert set(shown) == set(COLUMNS) - {"at"}
    assert sorted(shown.participant.unique()) == [1, 2, 3, 4, 5, 6]
    assert b"Anna" in b"".join(data_package(study, table, texts=True).values())


def test_participants_are_numbered_anew() -> None:
    table = ratings(["phone"] * 20, ["en"] * 20)
    table["value"] = table["participant"].astype(float)  # what tells them apart here
    found = anonymised(table, rng=random.Random(1)).drop_duplicates("participant")
    assert found.participant.tolist() == list(range(1, 21))
    assert sorted(found.value) == [float(number) for number in range(1, 21)]
    assert found.value.tolist() != found.participant.tolist()


@pytest.mark.parametrize(
    ("devices", "languages", "kept"),
    [
        (["phone"] * 5 + ["desktop"] * 5, ["en"] * 10, ("device", "language")),
        (["phone"] * 5 + ["desktop"] * 5, ["en"] * 9 + ["de"], ("device",)),
        (["phone"] * 4 + ["desktop"] * 6, ["en"] * 5 + ["de"] * 5, ("language",)),
        (["phone"] * 4, ["en"] * 4, ()),
        ([], [], ()),
    ],
)
def test_no_combination_is_small(devices: list[str], languages: list[str], kept: tuple[str, ...]) -> None:
    table = pd.DataFrame(ratings(devices, languages), columns=list(COLUMNS))
    assert publishable(table) == kept
    if kept:
        sizes = anonymised(table).drop_duplicates("participant").groupby(list(kept)).size()
        assert sizes.min() >= SMALLEST_GROUP


def test_potato_has_every_form_and_no_variant(study: Study) -> None:
    files = potato_project(study)
    config = json.loads(files["potato/config.yaml"])
    items = {item["id"]: item for item in map(json.loads, files["potato/data/items.jsonl"].splitlines())}
    key = read_csv(files["potato-key.csv"])
    groups = [group["instances"] for group in config["batch_assignment"]["groups"]]
    assert [len(group) for group in groups] == [len(form.trials) for form in study.design.forms]
    assert sorted(page for group in groups for page in group) == sorted(items)  # no page in two forms
    for form, group in zip(study.design.forms, groups, strict=True):
        shown = key[key.id.isin(group) & (key.kind != "attention")]
        planned = [s for trial in form.trials if trial.kind != "attention" for s in trial.stimuli]
        assert sorted(shown.stimulus) == sorted(planned)
    for stimulus in study.stimuli.values():
        (page,) = key[(key.stimulus == stimulus.id) & (key.kind == "rating")].id.unique()
        assert all(part.text in items[page]["text"] for part in stimulus.parts)
    shown_there = b"".join(content for name, content in files.items() if name.startswith("potato/"))
    assert not any(variant.encode() in shown_there for variant in ("gptq", "nf4", '"full'))
    schemes = {scheme["name"]: scheme["annotation_type"] for scheme in config["annotation_schemes"]}
    assert schemes == {"understandability": "likert", "overall": "likert", "remark": "text"}


def test_potato_shows_pairs_and_hides_what_is_guessed(tmp_path: Path) -> None:
    asked = [{"id": "better", "kind": "pairwise", "text": "Which one?"}]
    pairs = potato_project(make_study(tmp_path / "pairs", questions=asked, design={"show": "pair"}), "de")
    config = json.loads(pairs["potato/config.yaml"])
    assert [field["key"] for field in config["instance_display"]["fields"]] == ["left", "right"]
    assert [label["name"] for label in config["annotation_schemes"][0]["labels"]] == ["left", "right", "same"]
    key = read_csv(pairs["potato-key.csv"])
    sides = key[key.variant == "full"].shown.value_counts()
    assert abs(sides["left"] - sides["right"]) <= len(config["batch_assignment"]["groups"])
    guessed = make_study(
        tmp_path / "guess", questions=[{"id": "guess", "kind": "label", "text": "Which label?"}],
        design={"attention_checks": 0},
    )  # fmt: skip
    texts = potato_project(guessed)["potato/data/items.jsonl"].decode()
    assert "Answer given" not in texts
    assert "Answer it should lead to" not in texts
