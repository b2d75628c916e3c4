"""`quantxai study new` and `quantxai study draw`: from a run to what participants will see."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantxai.commands.present import columns, presented, print_json, wrapped

if TYPE_CHECKING:
    from userstudy.creation import Drawn
    from userstudy.material import Material

__all__ = ["draw", "new"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@presented
def new(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory, such as runs/default.")],
    out: Annotated[Path, typer.Option("--out", metavar="STUDY", help="The study directory to write.")] = Path(
        "study"
    ),
    preset: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Questionnaire: counterfactual, explanation, pairwise or simulatability."
        ),
    ] = "counterfactual",
    items: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Source items at most; 20 where left out.")
    ] = None,
    per_participant: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="Source items each participant sees; 20 where left out."),
    ] = None,
    participants: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Completed sessions wanted; 48 where left out.")
    ] = None,
    variants: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Which variants; all but controls where left out. The parent is always in.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of every draw.")] = None,
    as_json: Json = False,
) -> None:
    """Draw a user study from a run.

    Takes source items for which every variant has a text, stratified by data set, label and whether
    the parent was right; takes out of the texts what would give the variant away; and makes balanced forms: each
    participant sees each source item once, and each variant equally often. Writes a commented study.toml with
    questions and texts in English and German.

    Example: quantxai study new runs/default --out study --items 12
    """
    from userstudy.creation import new_study

    drawn = new_study(
        run,
        out,
        preset,
        items=items,
        per_participant=per_participant,
        participants=participants,
        variants=None if variants is None else tuple(name.strip() for name in variants.split(",")),
        seed=seed,
    )
    _tell(drawn, as_json)


@presented
def draw(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The study directory.")],
    run: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Draw the texts anew as well, from this run; kept where left out."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw a study's design again.

    Needed after a change of [design] in study.toml, and refused once somebody takes part. Questions, texts and
    everything else in study.toml can be changed without it.

    Example: quantxai study draw study
    """
    from userstudy.creation import redraw

    _tell(redraw(study, run), as_json)


def _tell(drawn: Drawn, as_json: bool) -> None:
    from userstudy.balance import shortcomings
    from userstudy.creation import minutes
    from userstudy.presets import unfilled

    study, material = drawn
    design, settings = study.design, study.settings
    about = minutes(study.stimuli.values(), design, settings)
    notes = shortcomings(design, study.stimuli, settings)
    if as_json:
        print_json(_facts(drawn, about, notes))
        return
    lines = [f"study   {study.path}"]
    if material is not None:
        lines += _material_lines(material)
    lines += ["", *_design_lines(drawn, about), *(wrapped(note, 2, "- ") for note in notes)]
    todo = unfilled(settings)
    if todo:
        lines += ["", wrapped(f"Fill in what is marked [FILL IN: ...] in study.toml: {', '.join(todo)}.", 0)]
    lines += [
        "",
        f"Next: edit {study.path / 'study.toml'}",
        f"Then: quantxai study power {study.path}            what a study of this size can find",
        f"      quantxai study serve {study.path} --preview  the pages as participants see them",
    ]
    typer.echo("\n".join(lines))


def _material_lines(material: Material) -> list[str]:
    origin = material.origin
    rows = [["explainer", "data set", "label", "parent", "drawn", "of"]]
    rows += [[*stratum, str(taken), str(size)] for stratum, (taken, size) in material.strata.items()]
    lines = [
        f"run     {origin.run} ({origin.model})",
        "",
        columns(rows, right=(4, 5)),
        "",
        f"{origin.drawn} source items drawn of {origin.eligible} for which every variant has a text.",
    ]
    if origin.left_out:
        missing = ", ".join(f"{variant} {count}" for variant, count in origin.left_out.items())
        lines.append(
            wrapped(
                f"Items left out because a variant wrote nothing that could be used: {missing}. So only successes are "
                "rated: state this with the results. How often each variant fails is measured in the run.",
                0,
            )
        )
    if material.same:
        lines.append(wrapped(f"For {material.same} of the items two or more variants wrote the same.", 0))
    touched = sum(bool(stimulus.removed) for stimulus in material.stimuli)
    if touched:
        lines.append(
            wrapped(
                f"Texts that had something taken out which could tell the variant: {touched}; see material.json.",
                0,
            )
        )
    return lines


def _design_lines(drawn: Drawn, about: int) -> list[str]:
    from userstudy.balance import balance

    study = drawn.study
    design, settings = study.design, study.settings
    found = balance(design, study.stimuli)
    kinds = [trial.kind for trial in design.forms[0].trials]
    people = settings.recruitment.participants
    shown = len(kinds)
    items = len({stimulus.item for stimulus in study.stimuli.values()})
    rotated = len(design.variants) - (settings.design.show == "pair")
    return [
        f"design  {design.kind.replace('-', ' ')}, {len(design.forms)} forms",
        f"pages   {shown} for each participant: {found.items} items, {kinds.count('repeat')} of them again, "
        f"{kinds.count('attention')} attention checks",
        f"time    about {about} minutes for each participant (an estimate)",
        f"ratings {people * found.items / (items * rotated):.1f} of each item with each variant, "
        f"{people * found.items / rotated:.0f} of each variant, with {people} participants",
    ]


def _facts(drawn: Drawn, about: int, notes: list[str]) -> dict[str, Any]:
    study, material = drawn
    return {
        "study": str(study.path),
        "origin": study.origin.model_dump(),
        "strata": [
            {**stratum._asdict(), "drawn": taken, "eligible": size}
            for stratum, (taken, size) in (material.strata if material else {}).items()
        ],
        "variants": study.design.variants,
        "kind": study.design.kind,
        "forms": len(study.design.forms),
        "pages": len(study.design.forms[0].trials),
        "minutes": about,
        "not_balanced": notes,
    }
