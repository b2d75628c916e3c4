"""The ratings as they can be published: nobody in them can be told from others by what is in them.

Left out are identifiers, times of day, free texts (unless asked for) and reasons written by hand;
participants are numbered anew at random. Device and language are what else is known of a person: of
these the package has as much as leaves every combination with at least `SMALLEST_GROUP` participants
(k-anonymity: Sweeney 2002).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pandas as pd

from userstudy.export.cells import to_csv
from userstudy.export.codebook import STIMULI, TEXTS, codebook_json, codebook_markdown
from userstudy.export.tables import stimuli
from userstudy.ratings import COLUMNS
from userstudy.settings import in_language
from userstudy.study import Study

__all__ = ["SMALLEST_GROUP", "anonymised", "data_package", "publishable"]

SMALLEST_GROUP = 5
"""k. A usual lower end for tables that are open to everybody; whoever publishes may ask for more."""
_QUASI_IDENTIFIERS = ("device", "language")
_CHANGED = {
    "participant": "number, drawn at random for this package",
    "seconds": "on the page, while it was visible, to whole seconds",
    "excluded": "by hand, where a participant is set aside by hand; empty where not",
}
_README = """# {title}: ratings

Ratings of explanations by {people}, of a study made with quantxai. `codebook.md` says what every column
means; `ratings.csv` has an answer a row, `stimuli.csv` says which stimulus is which variant's.

## What was done so that nobody can be recognised

- Participants are numbered anew at random; nothing here leads back to the study's own numbers.
- There are no identifiers, hashes, completion codes or links. Times of day are left out; the time on a page
  is rounded to whole seconds.
- {texts}
- Reasons for setting a participant aside are replaced by "by hand".
- {quasi}

What cannot be judged from here: what else about participants is public (who was invited, when), and whether
the texts of the stimuli may be passed on. Read free texts before you publish them.

## Licence

Not chosen yet. Replace this line by the licence under which you publish, such as CC BY 4.0, and make sure
that the consent participants gave covers it.

## CSV

A text that begins with =, +, -, @, a tab, a line's end or an apostrophe has an apostrophe before it, so that no
spreadsheet takes it for a formula: take off one leading apostrophe of a text to have it as it was.
"""


def publishable(ratings: pd.DataFrame, smallest: int = SMALLEST_GROUP) -> tuple[str, ...]:
    """Return which of device and language can be published without singling anybody out.

    The first of (both, device, language, neither) of which every combination has so many participants.

    Args:
        ratings: an answer a row.
        smallest: how many participants a combination must have.
    """
    people = ratings.drop_duplicates("participant")
    for kept in (_QUASI_IDENTIFIERS, ("device",), ("language",)):
        sizes = people.groupby(list(kept), dropna=False).size()
        if len(sizes) and sizes.min() >= smallest:
            return kept
    return ()


def anonymised(
    ratings: pd.DataFrame, *, texts: bool = False, rng: random.Random | None = None
) -> pd.DataFrame:
    """Return ratings as the package has them, sorted by the new numbers.

    Args:
        ratings: an answer a row: `userstudy.ratings.COLUMNS`.
        texts: whether to keep answers in free text.
        rng: source of the new numbers; the system's where left out, so that nobody can draw them again.
    """
    people = sorted(ratings["participant"].unique())
    numbers = list(range(1, len(people) + 1))
    (rng or random.SystemRandom()).shuffle(numbers)
    table = ratings.drop(columns=["at"]).copy()
    table["participant"] = table["participant"].map(dict(zip(people, numbers, strict=True)))
    table["seconds"] = table["seconds"].round()
    table["excluded"] = ["by hand" if reason and not pd.isna(reason) else "" for reason in table["excluded"]]
    if not texts:
        table.loc[table["scale"] == "text", "text"] = ""
    kept = publishable(ratings)
    table = table.drop(columns=[name for name in _QUASI_IDENTIFIERS if name not in kept])
    return table.sort_values(["participant", "position", "question"], ignore_index=True)


def data_package(
    study: Study, ratings: pd.DataFrame, *, texts: bool = False, simulated: bool = False
) -> dict[str, bytes]:
    """Return the files of the package by their names.

    Args:
        study: what was asked.
        ratings: an answer a row.
        texts: whether to include answers in free text and what the stimuli say.
        simulated: whether nobody took part, but a program; the package says so.
    """
    table, shown = anonymised(ratings, texts=texts), stimuli(study, texts=texts)
    described = {
        "ratings": {name: (COLUMNS | _CHANGED)[name] for name in table},
        "stimuli": {name: (STIMULI | TEXTS)[name] for name in shown},
    }
    count = ratings["participant"].nunique()
    readme = _README.format(
        title=in_language(study.settings.texts.title, study.settings.languages[0]),
        people=f"{count} {'simulated ' if simulated else ''}participant{'' if count == 1 else 's'}",
        texts="Answers in free text and the texts of the stimuli are included, as asked."
        if texts
        else "Answers in free text are left out, and so are the texts of the stimuli.",
        quasi=_quasi(publishable(ratings)),
    )
    return {
        "README.md": readme.encode(),
        "ratings.csv": to_csv(table),
        "stimuli.csv": to_csv(shown),
        "codebook.json": codebook_json(described),
        "codebook.md": codebook_markdown(described),
    }


def _quasi(kept: Sequence[str]) -> str:
    """Say what is published of device and language, and why."""
    left_out = [name for name in _QUASI_IDENTIFIERS if name not in kept]
    rule = f"at least {SMALLEST_GROUP} participants"
    if not left_out:
        return f"Every combination of device and language has {rule} (k-anonymity with k = {SMALLEST_GROUP})."
    said = " and ".join(left_out)
    verb = "are" if len(left_out) > 1 else "is"
    why = (
        f"{said.capitalize()} {verb} left out, since with {'them' if len(left_out) > 1 else 'it'} fewer than "
    )
    why += f"{SMALLEST_GROUP} participants would share some combination"
    return (
        f"{why}; every {kept[0]} has {rule}." if kept else f"{why} (k-anonymity with k = {SMALLEST_GROUP})."
    )
