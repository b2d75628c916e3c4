"""`quantxai study power`: what would a study of this size find?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantxai.commands.present import columns, presented, print_json, signed, wrapped
from quantxai.commands.study.opening import Directory

if TYPE_CHECKING:
    from quantxai.progress import PlainProgress, TerminalProgress
    from userstudy.power import FalseFindings, Power, PowerSimulation, Size
    from userstudy.raters import Truth
    from userstudy.study import Study

__all__ = ["power"]

_MOST = 768  # participants: 16 times the 48 of the study this package follows


@presented
def power(
    study: Directory,
    effects: Annotated[
        str | None,
        typer.Option(
            metavar="VARIANT=POINTS,...",
            help="True changes, in points of the scale; 0 for those left out. Without this every variant "
            "loses 0.4 points.",
        ),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(metavar="FILE", help="All of a truth, TOML or JSON, instead of --effects.")
    ] = None,
    participants: Annotated[
        str | None, typer.Option(metavar="N,...", help="How many begin; as study.toml says where left out.")
    ] = None,
    items: Annotated[
        str | None, typer.Option(metavar="N,...", help="Source items; as in the study where left out.")
    ] = None,
    simulations: Annotated[
        int, typer.Option(min=10, metavar="N", help="Simulated studies for each number.")
    ] = 200,
    target: Annotated[float, typer.Option(min=0.01, max=0.99, metavar="SHARE", help="Power wanted.")] = 0.8,
    search: Annotated[
        bool, typer.Option(help="Look for the fewest participants that reach the target.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the simulation.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Simulate the study before anybody takes part.

    Raters with a known truth go through the study's own forms, and their ratings through the analysis that
    the real ones will go through. Power is the share of simulated studies that find the difference; where
    the truth makes none, the share that shows equivalence. The last lines say how often a study finds some
    difference where no variant makes one, and how many participants reach the target.

    Example: quantxai study power study --effects nf4=-0.5 --participants 24,48
    """
    from quantxai.progress import for_stream
    from userstudy.power import PowerSimulation, Size
    from userstudy.study import Study

    opened = Study.open(study)
    stated = _truth(opened, effects, truth)
    own = Size(opened.settings.recruitment.participants, len({s.item for s in opened.stimuli.values()}))
    sizes = [
        Size(people, number)
        for number in _numbers("--items", items, own.items)
        for people in _numbers("--participants", participants, own.participants)
    ]
    with (
        for_stream() as progress,
        PowerSimulation(opened, stated, simulations, progress.advance, seed) as simulation,
    ):
        progress.start("simulating the design", 2 * len(sizes) * simulations)
        powers = [found for size in sizes for found in simulation.power(size)]
        false = [simulation.false_findings(size) for size in sizes]
        suggested = _suggested(simulation, sizes, target, simulations, progress) if search else None
    if as_json:
        print_json(
            {
                "study": str(study),
                "truth": stated.model_dump(),
                "alpha": opened.settings.analysis.alpha,
                "target": target,
                "power": [found.model_dump() for found in powers],
                "false_findings": [found.model_dump() for found in false],
                "searched": search,
                "suggested": suggested and [found.model_dump() for found in suggested],
            }
        )
        return
    typer.echo(_text(opened, powers, false))
    if search:
        typer.echo(_advice(suggested, target, sizes[0].items))


def _truth(study: Study, effects: str | None, file: Path | None) -> Truth:
    from quantxai.errors import ConfigError
    from userstudy.raters import Truth, read_truth

    if effects is not None and file is not None:
        raise ConfigError("--effects and --truth both say what is true: give one of them.")
    if effects is not None:
        stated = Truth(effects=_effects(effects), others=0.0)
    else:
        stated = read_truth(file) if file else Truth()
    return stated.checked(study.design.variants)


def _effects(text: str) -> dict[str, float]:
    from quantxai.errors import ConfigError

    found = {}
    for part in text.split(","):
        name, _, value = part.rpartition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            name = ""
        if not name.strip() or not math.isfinite(found[name.strip()]):
            raise ConfigError(f"--effects {text}: '{part}' is not VARIANT=POINTS, such as nf4=-0.5.")
    return found


def _numbers(option: str, text: str | None, own: int) -> list[int]:
    from quantxai.errors import ConfigError

    parts = [part.strip() for part in text.split(",")] if text is not None else [str(own)]
    if not all(part.isdecimal() and int(part) >= 2 for part in parts):
        raise ConfigError(f"{option} {text}: give whole numbers from 2 on, separated by commas.")
    return [int(part) for part in parts]


def _suggested(
    simulation: PowerSimulation,
    sizes: list[Size],
    target: float,
    simulations: int,
    progress: PlainProgress | TerminalProgress,
) -> list[Power] | None:
    """Return the powers of the smallest number of participants whose every variant reaches the target."""
    from userstudy.power import decisive, smallest

    seen: dict[int, list[Power]] = {}
    # Four is few enough to be a useful answer and keeps the search to a dozen sizes.
    step = 4

    def reaches(people: int) -> bool:
        progress.start(f"simulating {people} participants", simulations)
        seen[people] = decisive(simulation.power(sizes[0]._replace(participants=people)))
        return all(found.power >= target for found in seen[people])

    people = smallest(reaches, sizes[0].participants, step, _MOST)
    return seen[people] if people else None


def _text(study: Study, powers: list[Power], false: list[FalseFindings]) -> str:
    heading = ["participants", "items", "variant", "question", "true change", "aim", "power", "95 % interval"]
    several = len({found.question for found in powers} - {None}) > 1
    rows = [
        [
            str(found.participants),
            str(found.items),
            found.variant,
            found.question or ("any" if found.aim == "difference" else "every"),
            signed(found.expected),
            found.aim,
            f"{found.power:.2f}",
            f"{found.ci_low:.2f} to {found.ci_high:.2f}",
        ]
        for found in powers
        if found.question or several
    ]
    alpha = study.settings.analysis.alpha
    lines = [columns([heading, *rows], right=(0, 1, 4, 6)), ""]
    lines += [
        wrapped(
            f"Where no variant makes a difference, {f.participants} participants and {f.items} items find some in "
            f"{f.rate:.1%} of {f.simulations} studies ({f.ci_low:.1%} to {f.ci_high:.1%}); alpha is {alpha:g}.",
            0,
        )
        for f in false
    ]
    inside = _inside(powers)
    if inside:
        lines.append(
            wrapped(
                "These true changes lie within the margin, so a study that is large enough calls them equivalent: "
                f"{', '.join(inside)}.",
                0,
            )
        )
    return "\n".join(lines)


def _inside(powers: list[Power]) -> list[str]:
    """Return what changes by less than the margin: a variant, or one on some questions."""
    found: dict[str, dict[str, bool]] = {}
    for one in powers:
        if one.question and one.expected is not None and one.margin:
            within = bool(one.expected) and abs(one.expected) < one.margin
            found.setdefault(one.variant, {})[one.question] = within
    return [
        variant
        if all(questions.values())
        else f"{variant} on {', '.join(q for q, yes in questions.items() if yes)}"
        for variant, questions in found.items()
        if any(questions.values())
    ]


def _advice(suggested: list[Power] | None, target: float, items: int) -> str:
    if not suggested:
        return wrapped(
            f"Even {_MOST} participants with {items} items do not reach a power of {target:g}. Participants do not "
            "make up for few items. What else helps: more items (from a larger run; try --items), fewer variants "
            "(quantxai study new --variants), fewer confirmatory questions (analysis.confirmatory in study.toml).",
            0,
        )
    least = min(suggested, key=lambda found: found.power)
    return wrapped(
        f"{least.participants} participants with {items} items are the fewest, in steps of four, that reach a power "
        f"of {target:g}: {least.power:.2f} ({least.ci_low:.2f} to {least.ci_high:.2f}) for {least.variant}.",
        0,
    )
