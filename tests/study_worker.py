"""A process of its own that serves a study: python study_worker.py STUDY URL GATE ENROLMENTS.

Opens the database when the file GATE is there, enrols so many participants one after another, and has one more
answer until it is killed, if ENROLMENTS is 0. Prints a line for each thing the service has acknowledged.
"""

from __future__ import annotations

import sys
import time
from itertools import count
from pathlib import Path

from userstudy.database.engine import open_database
from userstudy.errors import StudyError
from userstudy.sessions import Sessions
from userstudy.study import Study


def main(path: str, url: str, gate: str, enrolments: int) -> None:
    study = Study.open(path)
    print("ready", flush=True)
    while not Path(gate).exists():
        time.sleep(0.002)
    sessions = Sessions(study, open_database(study, url or None))
    for _ in range(enrolments):
        try:
            sessions.enrol("en", "desktop")
            print("enrolled", flush=True)
        except StudyError as error:
            print(error.kind, flush=True)
    if not enrolments:
        token = sessions.enrol("en", "desktop")
        sessions.start_check(token)
        sessions.check(token, [0])
        for number in count():
            sessions.answer(token, 0, "overall", "3", f"key-{number}")
            print(f"key-{number}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
