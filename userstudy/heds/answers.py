"""What a study knows of the datasheet's answers."""

from __future__ import annotations

from quantxai.report.text import count, listing
from userstudy.analysis.results import StudyAnalysis
from userstudy.heds.form import Answer, Chosen, Datasheet
from userstudy.report.flow import Flow
from userstudy.report.prose import decision, exclusion_rules, scale_of, software
from userstudy.report.tables import ranged
from userstudy.settings import Question, in_language
from userstudy.study import Study

__all__ = ["datasheet"]


def datasheet(study: Study, analysis: StudyAnalysis, flow: Flow) -> Datasheet:
    """Return what the study knows of the datasheet's answers.

    Args:
        study: what was asked about what.
        analysis: what was found.
        flow: who took part.
    """
    language = "en" if "en" in study.settings.languages else study.settings.languages[0]
    experiment = {
        **_systems(study),
        **_sample(study, analysis),
        **_evaluators(study, analysis, flow, language),
    }
    experiment |= _design(study, flow, language)
    criteria = {
        question.id: _criterion(question, study, analysis, language) for question in study.settings.questions
    }
    return Datasheet(experiment, criteria)


def _systems(study: Study) -> dict[str, Answer]:
    origin, settings = study.origin, study.settings
    explainers = sorted({stimulus.explainer for stimulus in study.stimuli.values()})
    datasets = sorted({stimulus.dataset for stimulus in study.stimuli.values()})
    variants = listing(list(study.design.variants))
    asked = listing([question.id for question in settings.questions])
    return {
        "1.1.2": f"A user study of explanations ({listing(explainers)}) by {len(study.design.variants)} variants of "
        f"{origin.model}, quantized in different ways ({variants}), on items of {listing(datasets)}. Quality "
        f"criteria: {asked}.",
        "2.1": Chosen(((6, "6. Text: multiple sentences"),)),
        "2.2": Chosen(((6, "6. Text: multiple sentences"),)),
        "2.3": Chosen((), f"Explaining a prediction: {listing(explainers)}."),
    }


def _sample(study: Study, analysis: StudyAnalysis) -> dict[str, Answer]:
    each = len({stimulus.item for stimulus in study.stimuli.values()})
    return {
        "3.1.1": f"{each} for each of {len(study.design.variants)} systems; {analysis.items} of these items have "
        f"analysed ratings ({count(analysis.ratings, 'answer')}).",
        "3.1.2": Chosen(
            ((2, "2. By an automatic random process but using stratified sampling over given properties"),)
        ),
    }


def _evaluators(study: Study, analysis: StudyAnalysis, flow: Flow, language: str) -> dict[str, Answer]:
    settings = study.settings
    told = [in_language(text, language) for text in (settings.texts.instructions, settings.texts.example)]
    training = [
        "Written instructions" + (" with a worked example" if told[1] else "") + " before the ratings"
    ]
    if settings.check:
        attempts = count(settings.recruitment.check_attempts, "try").replace("trys", "tries")
        training.append(f"a comprehension check of {count(len(settings.check), 'question')} ({attempts})")
    found: dict[str, Answer] = {
        "3.2.1": str(analysis.participants),
        "3.2.4": f"{listing(training)}. The instructions, verbatim:\n\n" + "\n\n".join(filter(None, told)),
        "3.2.5": " ".join(flow.characteristics) or "Nothing was recorded.",
    }
    if flow.simulated:
        found["3.2.3"] = "Nobody was: the participants are simulated."
    return found


def _design(study: Study, flow: Flow, language: str) -> dict[str, Answer]:
    settings = study.settings
    minutes, days = settings.recruitment.abandoned_after_minutes, settings.recruitment.link_valid_days
    contact = in_language(settings.texts.contact, language)
    found: dict[str, Answer] = {
        "3.3.2": f"A web page served by quantxai's study app ({software()}).",
        "3.3.3.1": Chosen(
            (
                (2, "2. Automatic quality checking methods are used during and/or after evaluation"),
                (4, "4. Evaluators are excluded if they fail quality checks (often or badly enough)"),
            )
        ),
        "3.3.3.2": _quality_methods(study),
        "3.3.4.2": _what_is_shown(study),
        "3.3.5": Chosen(
            ((5, "5. None of the above (please describe)"),),
            f"Whenever they like within {days:g} days, at their own pace, with breaks; answers are kept. Who gives no "
            f"answer for {minutes:g} minutes may lose the place to somebody else.",
        ),
        "3.3.7": Chosen(((1, "1. Evaluators carry out assessments at a place of their own choosing"),)),
        "3.3.8": "Place, time, device and screen are the evaluators' own choice. "
        + " ".join(line for line in flow.characteristics if line.startswith("Devices")),
    }
    if contact:
        found["3.3.6"] = Chosen(
            ((4, "4. Other (please describe)"),), f"An address for questions is shown on the page: {contact}"
        )
    return found


def _quality_methods(study: Study) -> str:
    settings, checks = study.settings, len(study.design.attention)
    found = []
    if settings.check:
        found.append(
            f"A comprehension check of {count(len(settings.check), 'question')} has to be passed before the ratings."
        )
    if checks:
        found.append(
            f"{count(checks, 'page')} among the others {'says' if checks == 1 else 'say'} in the text which answer "
            "to give."
        )
    found.append(
        f"Left out of the analysis is whoever shows {listing(exclusion_rules(study)).replace(' and ', ' or ')}."
    )
    return " ".join(found)


def _what_is_shown(study: Study) -> str:
    names = {p.name for s in study.stimuli.values() for p in s.parts} - study.settings.hidden
    shown = "Two texts side by side" if study.settings.design.show == "pair" else "One text"
    asked = count(len(study.settings.questions), "question")
    return (
        f"{shown} with its parts ({listing(sorted(names))}), and {asked} below, each with its wording, a line of "
        "explanation where there is one, and its scale with both ends in words. Which system wrote a text is not "
        "shown. How far one has come is shown; the instructions can be read again."
    )


def _criterion(question: Question, study: Study, analysis: StudyAnalysis, language: str) -> dict[str, Answer]:
    told = in_language(question.help, language)
    found: dict[str, Answer] = {
        "4.2.1": Chosen(((1, "1. Objective"),) if question.kind == "label" else ((2, "2. Subjective"),)),
        "4.2.2": Chosen(((2, "2. Relative"),) if question.kind == "pairwise" else ((1, "1. Absolute"),)),
        "4.2.3": Chosen(((2, "2. Extrinsic"),) if question.kind == "label" else ((1, "1. Intrinsic"),)),
        "4.3.1.1": "no name given",
        "4.3.2": told or "no definition given",
        "4.3.7": in_language(question.text, language),
        **_instrument(question, study, language),
    }
    if question.kind == "text":
        return found | {
            "4.3.9": "results were not processed or aggregated before being reported",
            "4.3.10": "None",
            **dict.fromkeys(("4.3.11.1", "4.3.11.2"), "InterAA not assessed"),
            **dict.fromkeys(("4.3.12.1", "4.3.12.2"), "IntraAA not assessed"),
        }
    found["4.3.9"] = (
        "The share of choices for a system less the share for the reference."
        if question.kind == "pairwise"
        else "Means over answers by system, and differences from the reference with participants and items held equal."
    )
    effects = (
        ""
        if question.kind == "pairwise"
        else " Effect sizes: Cliff's delta and the standardised mean difference."
    )
    found["4.3.10"] = decision(analysis) + effects
    return found | _agreement(question, analysis)


def _instrument(question: Question, study: Study, language: str) -> dict[str, Answer]:
    """Return size, values and form of the scale: 4.3.3 to 4.3.6 and 4.3.8."""
    if question.kind == "text":
        return {
            "4.3.3": "N/A",
            "4.3.4": "N/A",
            "4.3.5": Chosen(((4, "4. N/A (there is no rating instrument)"),)),
            "4.3.6": "Writing a free text.",
            "4.3.8": Chosen(((5, "5. Qualitative feedback (e.g. via comments entered in a text box)"),)),
        }
    labels = list(dict.fromkeys(label for s in study.stimuli.values() for label in s.labels))
    values = {
        "likert": [str(point) for point in range(1, question.points + 1)],
        "pairwise": ["one text", "the other", "no difference"],
        "label": labels,
    }[question.kind]
    form = {
        "likert": (2, "2. Direct quality estimation"),
        "pairwise": (3, "3. Relative quality estimation (including ranking)"),
        "label": (9, "9. Task performance measurements"),
    }[question.kind]
    ends = f" ({scale_of(question, language)})" if question.kind == "likert" else ""
    return {
        "4.3.3": str(len(values)),
        "4.3.4": ", ".join(values) + ends,
        "4.3.5": Chosen(((1, "1. Multiple-choice options"),)),
        "4.3.6": "N/A",
        "4.3.8": Chosen((form,)),
    }


def _agreement(question: Question, analysis: StudyAnalysis) -> dict[str, Answer]:
    between = next((a for a in analysis.agreement if a.question == question.id), None)
    within = next((a for a in analysis.intra_rater if a.question == question.id), None)
    found: dict[str, Answer] = {
        "4.3.11.1": "InterAA not assessed",
        "4.3.11.2": "InterAA not assessed",
        "4.3.12.1": "IntraAA not assessed",
        "4.3.12.2": "IntraAA not assessed",
    }
    if between is not None and between.alpha is not None:
        found["4.3.11.1"] = (
            f"Krippendorff's alpha ({between.level}) over {count(between.units, 'text')} with at least two answers; "
            "95 % bootstrap interval over groups of source items."
        )
        found["4.3.11.2"] = ranged(between.alpha, between.ci_low, between.ci_high, sign=False)
    if within is not None and within.kappa is not None:
        weighted = ", weighted by squared distance" if question.kind == "likert" else ""
        found["4.3.12.1"] = (
            f"Cohen's kappa{weighted}, over {count(within.pairs, 'answer')} given twice; 95 % bootstrap interval over "
            "participants."
        )
        found["4.3.12.2"] = ranged(within.kappa, within.kappa_low, within.kappa_high, sign=False)
    return found
