"""The Human Evaluation Datasheet (HEDS 3.0), filled in as far as the study knows (Belz and Thomson 2025).

`datasheet` answers what follows from the study's settings, design and ratings, and leaves open what only
the researchers can answer. `to_json` is the file that the authors' form (https://nlp-heds.github.io, button
"upload json") reads, so that the rest can be filled in there; `to_markdown` lists all questions with their
answers and what is open. That the form takes the file follows from its source; it was not tried with the
served form.
"""

from userstudy.heds.answers import datasheet
from userstudy.heds.form import Answer, Chosen, Datasheet, to_json, to_markdown
from userstudy.heds.questions import QUESTIONS, SECTIONS, HedsQuestion

__all__ = [
    "QUESTIONS",
    "SECTIONS",
    "Answer",
    "Chosen",
    "Datasheet",
    "HedsQuestion",
    "datasheet",
    "to_json",
    "to_markdown",
]
