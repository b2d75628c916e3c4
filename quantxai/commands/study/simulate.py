"""`quantxai study simulate`: raters with a known truth take part in the served study."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from quantxai.commands.present import columns, complain, presented, print_json, wrapped
from quantxai.commands.study.opening import Directory
from quantxai.errors import MissingExtra

__all__ = ["simulate"]


@presented
def simulate(
    study: Directory,
    url: Annotated[str, typer.Option(metavar="URL", help="Where it is served.")],
    participants: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="How many; as many as study.toml wants where left out."),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="What is true of the raters, TOML or JSON; see quantxai study power."
        ),
    ] = None,
    think_seconds: Annotated[
        float, typer.Option(min=0, metavar="S", help="Median time each spends on a page.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the raters.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print what became of them as JSON.")] = False,
) -> None:
    """Let simulated raters take part in a served study, all at once, as people do through the page.

    Start the server with --simulated: it then marks whoever comes as a simulated rater, so that they are never
    mixed with people. The times it is told are those of the truth, however short --think-seconds is. Serve a
    copy of the study, so that its own database stays empty.

    Example: quantxai study simulate study --participants 24 --url http://127.0.0.1:7860
    """
    import asyncio

    from quantxai.progress import for_stream
    from userstudy.raters import Truth, read_truth
    from userstudy.study import Study

    try:
        from userstudy.simulated import Crowd, connected, simulate
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "httpx", "study", "simulated raters") from None

    opened = Study.open(study)
    stated = (read_truth(truth) if truth else Truth()).checked(opened.design.variants)
    count = participants or opened.settings.recruitment.participants
    crowd = Crowd(opened, stated, count, seed)
    if crowd.reader.alike:
        complain(
            f"{crowd.reader.alike} pages show the same words as another variant's: raters take any of these for "
            "what they see, which blurs the truth.",
            kind="note",
        )
    with for_stream() as progress:
        progress.start("simulated raters", count)
        outcomes = asyncio.run(
            simulate(crowd, connected(url), think_seconds, done=lambda outcome: progress.advance(1))
        )
    ended = Counter(outcome.ended for outcome in outcomes)
    answers = sum(len(outcome.acknowledged) for outcome in outcomes)
    if as_json:
        expected = [
            {
                "question": question.id,
                "variant": variant,
                "expected": stated.expected(question, variant, opened.design.reference),
            }
            for question in opened.settings.questions
            if question.numeric
            for variant in opened.design.variants
        ]
        print_json(
            {"ended": dict(ended), "answers": answers, "truth": stated.model_dump(), "expected": expected}
        )
        return
    typer.echo(
        columns([["ended", "raters"], *([name, str(n)] for name, n in ended.most_common())], right=(1,))
    )
    typer.echo(wrapped(f"\nThe server has acknowledged {answers} answers.", 0))
