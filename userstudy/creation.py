"""A study directory from a run, and its design drawn again."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from quantxai.errors import InputError
from quantxai.files import write_atomically
from quantxai.records import Finding
from quantxai.store import Store, rows_to_table
from userstudy.design import draw_design
from userstudy.material import Material, draw_material
from userstudy.presets import preset, study_toml
from userstudy.records import Design, Stimulus
from userstudy.settings import StudySettings, in_language
from userstudy.study import Study

__all__ = ["Drawn", "minutes", "new_study", "redraw"]

_FROM_THE_RUN = ("design.items", "design.variants", "design.explainers", "design.seed")
"""Keys of study.toml that decide which texts are in the study."""

# Silent reading of English non-fiction: 238 words a minute (Brysbaert 2019, doi:10.1016/j.jml.2019.104047).
_WORDS_PER_MINUTE = 238
_SECONDS_PER_ANSWER = 6.0  # an assumption, as is the next
_SECONDS_PER_PAGE = 3.0


class Drawn(NamedTuple):
    """A study whose design has just been drawn."""

    study: Study
    material: Material | None
    """None where the material was kept."""


def new_study(run: str | Path, out: str | Path, name: str, **design: Any) -> Drawn:
    """Draw a study from a run and write its directory.

    Args:
        run: the run directory.
        out: the study directory, which must not exist or be empty.
        name: the preset.
        design: keys of [design] to set, and `participants`; None leaves the preset's value.

    Raises:
        InputError: the directory holds something already, or no study can be drawn from the run.
    """
    store, target = Store.open(run), Path(out)
    _must_be_new(target)
    plain = preset(name)
    given = {key: value for key, value in design.items() if value is not None}
    people = given.pop("participants", None)
    if people is not None:
        plain["recruitment"] = {**plain.get("recruitment", {}), "participants": people}
    plain["name"] = store.path.resolve().name
    plain["analysis"] = {**plain.get("analysis", {}), "reference": store.manifest.parent}
    plain["design"] = {**plain.get("design", {}), **given}
    material = draw_material(store, StudySettings.model_validate(plain))
    plain["design"]["variants"] = tuple(dict.fromkeys(s.variant for s in material.stimuli))
    settings = StudySettings.model_validate(plain)
    design_ = draw_design(material.stimuli, settings)
    settings = _timed(settings, minutes(material.stimuli, design_, settings))
    study = Study(target)
    study.write(material.stimuli, design_, material.origin)
    _copy_results(store, target, material.stimuli)
    write_atomically(target / "study.toml", study_toml(settings).encode())
    return Drawn(Study.open(target), material)


def redraw(path: str | Path, run: str | Path | None = None) -> Drawn:
    """Draw a study's design again, after [design] of its study.toml was changed.

    Args:
        path: the study directory.
        run: the run to draw material from; without it the study keeps its texts.

    Raises:
        InputError: someone takes part already, or what was changed needs the run.
    """
    study = Study(path)
    if not (study.path / "study.toml").is_file():
        Study.open(path)  # says what is missing
    _must_be_unanswered(study)
    settings, material = study.settings, None
    if run is None:
        _must_keep_texts(study)
        stimuli, origin = tuple(study.stimuli.values()), study.origin
    else:
        store = Store.open(run)
        material = draw_material(store, settings)
        stimuli, origin = material.stimuli, material.origin
        _copy_results(store, study.path, stimuli)
    study.write(stimuli, draw_design(stimuli, settings), origin)
    for suffix in ("", "-wal", "-shm"):  # a database without participants, of the design that is gone
        (study.path / f"study.sqlite{suffix}").unlink(missing_ok=True)
    return Drawn(Study.open(path), material)


def minutes(stimuli: Iterable[Stimulus], design: Design, settings: StudySettings) -> int:
    """Return about how many minutes a session takes: reading at 238 words a minute, and answering.

    An estimate to plan with: 6 seconds an answer and 3 seconds to turn a page are assumed. `quantxai study
    status` shows what it really takes.
    """
    words = {s.id: sum(len(part.text.split()) for part in s.parts) for s in stimuli}
    words |= {check.id: words[check.stimulus] for check in design.attention}
    language = settings.languages[0]
    around = (
        settings.texts.consent,
        settings.texts.instructions,
        settings.texts.example,
        settings.texts.debrief,
    )
    reading = sum(len(in_language(text, language).split()) for text in around)
    sessions = [sum(words[one] for trial in form.trials for one in trial.stimuli) for form in design.forms]
    pages = max(len(form.trials) for form in design.forms)
    answers = pages * len(settings.questions) + len(settings.check)
    seconds = 60 * (reading + sum(sessions) / len(sessions)) / _WORDS_PER_MINUTE
    return round((seconds + answers * _SECONDS_PER_ANSWER + pages * _SECONDS_PER_PAGE) / 60) or 1


def _timed(settings: StudySettings, about: int) -> StudySettings:
    texts = settings.texts.model_dump()
    consent = texts["consent"]
    by_language = consent if isinstance(consent, dict) else {"": consent}
    filled = {code: text.replace("{minutes}", str(about)) for code, text in by_language.items()}
    texts["consent"] = filled if isinstance(consent, dict) else filled[""]
    return settings.model_copy(update={"texts": type(settings.texts).model_validate(texts)})


def _copy_results(store: Store, target: Path, stimuli: Iterable[Stimulus]) -> None:
    """What the run measured of the drawn items, and what it found about their explainers."""
    stimuli = list(stimuli)
    items = pa.array({s.item for s in stimuli}, pa.string())
    variants = {s.variant for s in stimuli}
    measured = store.measurement_table()
    names = pc.binary_join_element_wise(measured["explainer"], measured["dataset"], measured["item"], "/")
    kept = pc.and_(pc.is_in(names, items), pc.is_in(measured["variant"], pa.array(variants, pa.string())))
    sets = {(s.explainer, s.dataset) for s in stimuli}
    found = [f for f in store.findings() if (f.explainer, f.dataset) in sets and f.variant in variants]
    for name, table in (("measurements", measured.filter(kept)), ("findings", rows_to_table(found, Finding))):
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        write_atomically(target / f"{name}.parquet", buffer.getvalue())


def _must_be_new(target: Path) -> None:
    if (target / "study.toml").exists():
        raise InputError(
            f"'{target}' is a study already, and stays as it is. Change its study.toml, and after a change of "
            f"[design] give: quantxai study draw {target}. Or give another directory with --out"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"'{target}' holds something else already; give another directory with --out")


def _must_be_unanswered(study: Study) -> None:
    """Refuse where the study's own database has participants; previews are none."""
    file = study.path / "study.sqlite"
    if not file.is_file():
        return
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as database:
            counts = dict(
                database.execute("SELECT kind, count(*) FROM participants GROUP BY kind").fetchall()
            )
    except sqlite3.DatabaseError as error:
        if "no such table" in str(error):
            return
        raise InputError(f"'{file}' cannot be read, so nothing was drawn: {error}") from None
    if counts.get("human"):
        raise InputError(
            f"{counts['human']} people take part in '{study.path}' already, and their answers belong to the design "
            "as it is. Put study.toml back as it was, or make another study with: quantxai study new RUN --out ANOTHER"
        )
    if counts.get("simulated"):
        raise InputError(
            f"'{file}' holds the answers of {counts['simulated']} simulated participants to the design as it is. "
            "Move it away to draw another"
        )


def _must_keep_texts(study: Study) -> None:
    changed = [key for key in study.changed_since_drawn() if key in _FROM_THE_RUN]
    if changed:
        raise InputError(
            f"{', '.join(changed)} has changed, which decides what texts the study has: give the run "
            f"'{study.origin.run}' they come from: quantxai study draw {study.path} --run RUN"
        )
