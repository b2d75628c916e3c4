"""`quantxai study status`: how a running study stands."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from quantxai.commands.present import columns, presented, print_json, wrapped
from quantxai.commands.study.opening import Database, Directory, opened

if TYPE_CHECKING:
    from userstudy.status import Status

__all__ = ["status"]


@presented
def status(
    study: Directory,
    database: Database = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say how a study stands: who has come, how evenly, how long it takes, and how far people agree.

    Can be asked while the study is served. Alpha is Krippendorff's, of those whom the exclusion rules keep, with a
    95 % bootstrap interval; the analysis computes it with more resamples.

    Example: quantxai study status study
    """
    with opened(study, database) as (found, engine):
        from userstudy.status import status as status_of

        stands = status_of(found, engine)
    if as_json:
        print_json({"study": str(study), **stands.model_dump()})
    else:
        typer.echo("\n\n".join(_sections(stands)))


def _sections(s: Status) -> Iterator[str]:
    yield _counts(s)
    if not s.recruited:
        return
    yield _balance(s)
    yield _times(s)
    if s.agreement:
        yield _agreement(s)
    people = [["participant", "session", "pages", "minutes", "s per page", "checks failed", "set aside"]]
    people += [
        [
            str(p.participant),
            p.status.replace("_", " "),
            str(p.pages),
            _number(p.minutes),
            _number(p.seconds_per_page),
            f"{p.attention_failed} of {p.attention_seen}" if p.attention_seen else "",
            p.excluded,
        ]
        for p in s.people
    ]
    yield columns(people, right=(0, 2, 3, 4))


def _counts(s: Status) -> str:
    who = "" if s.kind == "human" else " SIMULATED participants:"
    heading = f"The study is {s.admission}.{who} {s.completed} of {s.wanted} sessions are completed."
    rows = [
        ("gave consent", s.recruited, ""),
        ("completed", s.completed, f"{s.excluded} set aside by hand" if s.excluded else ""),
        ("active", s.active, f"{s.silent} of them silent for long" if s.silent else ""),
        ("released", s.released, "silent for long, their place went to somebody else" if s.released else ""),
        ("screened out", s.screened_out, "failed the comprehension check" if s.screened_out else ""),
        ("withdrawn", s.withdrawn, "their data are deleted" if s.withdrawn else ""),
    ]
    return "\n".join([heading, *(f"  {name:13}{number:>5}  {note}".rstrip() for name, number, note in rows)])


def _balance(s: Status) -> str:
    forms = [form.completed + form.active for form in s.forms]
    cells = defaultdict(list)
    for cell in s.cells:
        cells[cell.variant].append(cell.ratings)
    rows = [["variant", "ratings", "fewest of an item", "most of an item"]]
    rows += [[name, str(sum(c)), str(min(c)), str(max(c))] for name, c in cells.items()]
    spread = str(min(forms)) if min(forms) == max(forms) else f"{min(forms)} to {max(forms)}"
    given = f"Each of {len(forms)} forms is with {spread} participants, completed or active."
    return f"{columns(rows, right=(1, 2, 3))}\n{given}"


def _times(s: Status) -> str:
    lines = []
    if s.median_minutes is not None:
        lines.append(f"A session takes {_number(s.median_minutes)} minutes (median of completed ones).")
    if s.median_seconds_per_page is not None:
        lines.append(f"A page takes {_number(s.median_seconds_per_page)} seconds (median).")
    seen = sum(p.attention_seen for p in s.people)
    if seen:
        lines.append(f"Of {seen} attention checks {sum(p.attention_failed for p in s.people)} were failed.")
    if s.drop_out:
        stops = (
            f"{d.participants} {f'on page {d.page}' if d.page else 'before the first page'}"
            for d in s.drop_out
        )
        lines.append(wrapped(f"Silent sessions stopped: {', '.join(stops)}.", 0))
    return "\n".join(lines) or "Nobody has rated anything yet."


def _agreement(s: Status) -> str:
    rows = [["question", "alpha", "95 % interval", "texts", "participants"]]
    for a in s.agreement:
        interval = "" if a.ci_low is None else f"{a.ci_low:.2f} to {a.ci_high:.2f}"
        name = a.question or "all of the scale"
        value = "" if a.alpha is None else f"{a.alpha:.2f}"
        rows.append([name, value, interval, str(a.units), str(a.participants)])
    notes = dict.fromkeys(note for a in s.agreement for note in a.notes)
    heading = "Agreement, Krippendorff's alpha, of those whom the exclusion rules keep:"
    return "\n".join([heading, columns(rows, right=(1, 3, 4)), *notes])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
