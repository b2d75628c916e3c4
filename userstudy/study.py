"""The study directory: everything one study consists of, movable and complete without its run.

```
STUDY/
├── study.toml             what is asked, of whom, in which words: `StudySettings`
├── material.json          the stimuli, with what never reaches a participant: `Stimulus`
├── design.json            the forms: `Design`
├── origin.json            the run they come from: `Origin`
├── measurements.parquet   the run's metrics of the drawn items: `quantxai.records.Measurement`
├── findings.parquet       what the run found about the explainers: `quantxai.records.Finding`
├── analysis-plan.json     what was to be decided, kept before the first participant
├── secret.key             signs links, hashes identifiers; mode 0600, never exported
├── admin.json             hash of the admin page's password, once it has one
├── texts/XX.toml          the interface in a language of the study's own, if any
├── study.sqlite           participants and answers, unless the database is elsewhere
└── analysis/              what `quantxai study analyze` wrote
```
"""

from __future__ import annotations

import json
import os
import secrets
import time
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from quantxai.errors import ConfigError, InputError
from quantxai.files import write_atomically
from quantxai.records import Record, digest
from quantxai.validation import read_toml, validate
from userstudy.attention import fitted
from userstudy.records import Design, Origin, Stimulus
from userstudy.settings import StudySettings

__all__ = ["Study"]

_R = TypeVar("_R", bound=Record)
_STIMULI = TypeAdapter(tuple[Stimulus, ...])
_MOMENT = 1.0  # seconds
_NEW = "Create a study with: quantxai study new RUN --out STUDY"


class Study:
    """Reads one study directory.

    Args:
        path: the directory.

    Example:
        study = Study.open("study")
        len(study.stimuli), study.settings.recruitment.participants
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def open(cls, path: str | Path) -> Study:
        """Return the study of a directory, its settings, material and design read and checked.

        Raises:
            InputError: the directory is no study, or a file of it cannot be understood.
        """
        study = cls(path)
        if not (study.path / "study.toml").is_file():
            raise InputError(f"'{path}' is no study directory: it has no study.toml. {_NEW}")
        study._check_drawn()
        _ = study.settings, study.stimuli, study.design
        return study

    @cached_property
    def settings(self) -> StudySettings:
        """What study.toml says.

        Raises:
            ConfigError: a key or value of it is wrong.
        """
        file = self.path / "study.toml"
        return validate(StudySettings, read_toml(file, _NEW), str(file))

    @cached_property
    def stimuli(self) -> dict[str, Stimulus]:
        """All stimuli by id."""
        text = self._read("material.json")
        try:
            return {stimulus.id: stimulus for stimulus in _STIMULI.validate_json(text)}
        except ValidationError as error:
            raise self._unreadable("material.json", error) from None

    @cached_property
    def design(self) -> Design:
        """The forms; attention checks prescribe answers to the questions as they now are."""
        design = self._record("design.json", Design)
        attention = fitted(design.attention, self.stimuli, self.settings)
        return design.model_copy(update={"attention": attention})

    @cached_property
    def origin(self) -> Origin:
        """The run the material comes from."""
        return self._record("origin.json", Origin)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of material and design: answers belong to exactly these."""
        return digest([self._read("material.json"), self._read("design.json")])

    @cached_property
    def secret(self) -> bytes:
        """The key that signs links and hashes identifiers; made at the first use.

        Raises:
            InputError: it cannot be read or made.
        """
        file, until = self.path / "secret.key", time.monotonic() + _MOMENT
        try:
            with suppress(FileExistsError):
                descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                    stream.write(secrets.token_hex(32))
            while len(key := file.read_text(encoding="ascii").strip()) < 32 and time.monotonic() < until:
                time.sleep(0.02)  # another process that has started, too, has made it and is about to write
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file}, the study's key, cannot be read or made: {error}") from None
        if len(key) < 32:
            raise InputError(
                f"{file} is too short to be a key. Remove it; links given out before stop working."
            )
        return key.encode()

    def write(self, stimuli: tuple[Stimulus, ...], design: Design, origin: Origin) -> None:
        """Write material, design and origin."""
        write_atomically(self.path / "material.json", _STIMULI.dump_json(stimuli, indent=1))
        for name, record in (("design.json", design), ("origin.json", origin)):
            write_atomically(self.path / name, record.model_dump_json(indent=1).encode())

    def changed_since_drawn(self) -> list[str]:
        """Return the keys of study.toml that decide the design and are not as they were when it was drawn."""
        design, now = self._record("design.json", Design), self.settings.design
        drawn = design.drawn_with or now
        changed = [f"design.{k}" for k in type(now).model_fields if getattr(drawn, k) != getattr(now, k)]
        return changed + ["analysis.reference"] * (self.settings.analysis.reference != design.reference)

    def _check_drawn(self) -> None:
        changed = self.changed_since_drawn()
        if changed:
            raise ConfigError(
                f"{self.path / 'study.toml'}: {', '.join(changed)} has changed since the design was drawn. "
                f"Draw it again with: quantxai study draw {self.path}"
            )

    def _record(self, name: str, kind: type[_R]) -> _R:
        try:
            return kind.model_validate(json.loads(self._read(name)))
        except (ValidationError, json.JSONDecodeError) as error:
            raise self._unreadable(name, error) from None

    def _read(self, name: str) -> str:
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise InputError(f"'{self.path}' has no {name}. {_NEW}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise self._unreadable(name, error) from None

    def _unreadable(self, name: str, error: Exception) -> ConfigError:
        return ConfigError(f"{self.path / name}: not as it was written: {str(error).splitlines()[0]}")
