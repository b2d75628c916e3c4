"""What a participant can be told: one error, whose kind chooses the sentence in their language.

The sentences are in `userstudy/texts/LANGUAGE.toml` under the same names.
"""

from __future__ import annotations

from typing import Literal, get_args

from quantxai.errors import QuantxaiError

__all__ = ["KINDS", "Kind", "StudyError"]

Kind = Literal[
    "already_took_part",
    "gone",
    "invalid_answer",
    "link_expired",
    "link_invalid",
    "released",
    "screened_out",
    "study_closed",
    "study_full",
    "study_paused",
    "unavailable",
    "withdrawn",
]
KINDS: tuple[str, ...] = get_args(Kind)


class StudyError(QuantxaiError):
    """Something a participant asked for that cannot be done, or not now.

    Args:
        kind: which sentence the participant reads.
        message: the same for the log and the command line; never holds an answer or an identifier.

    The kinds: the link has run out (`link_expired`) or was never given out (`link_invalid`); the study
    takes nobody more (`study_full`), nobody at the moment (`study_paused`), is over (`study_closed`); the
    session is finished, or the person comes a second time (`already_took_part`), was given to somebody
    else after a long silence (`released`), failed the comprehension check (`screened_out`) or is deleted
    (`withdrawn`); what was sent is no answer to anything asked (`invalid_answer`); the text to be rated is
    no longer there (`gone`); the database cannot be reached or has no room (`unavailable`).
    """

    def __init__(self, kind: Kind, message: str = "") -> None:
        super().__init__(message or kind.replace("_", " "))
        self.kind: Kind = kind
