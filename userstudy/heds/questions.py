"""The questions of the Human Evaluation Datasheet, version 3.0 (Belz and Thomson 2025).

Numbers and the names of fields are those of the authors' form, https://nlp-heds.github.io (repository
nlp-heds/nlp-heds.github.io, commit 16f0ce96), read from its source; the ends of its sections agree with the
paper's (arXiv 2412.07940). The wording here is ours and short; the form has the full one with its notes. Not
read from the source: the wording of 3.1.1, and 2.3 and 2.4, whose fields are those of sheets others have
completed. An older form, still in use in 2026, has other fields for a few questions.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["QUESTIONS", "SECTIONS", "HedsQuestion"]


class HedsQuestion(NamedTuple):
    """One question.

    Attributes:
        number: as the datasheet numbers it.
        field: its name in the form's file, without the leading `heds-`.
        asked: what is asked, in short.
    """

    number: str
    field: str
    asked: str

    @property
    def per_criterion(self) -> bool:
        """Whether it is asked for every quality criterion."""
        return self.number.startswith("4.")


SECTIONS = {
    "1": "Main reference and supplementary resources",
    "2": "Evaluated systems",
    "3": "Sample of system outputs, evaluators and experimental design",
    "4": "Definition and operationalisation of quality criteria",
    "5": "Ethics",
}
_PERSON = "paper_and_resources-names_and_affiliations-person_completing_this_sheet-"
_AUTHOR = "paper_and_resources-names_and_affiliations-contact_author-"
_SAMPLE = "sample_evaluators_design-sample-"
_WHO = "sample_evaluators_design-evaluators-"
_HOW = "sample_evaluators_design-experimental_design-"
_MODE = "criteria-criterion-evaluation_mode-"
_ASKED = "criteria-criterion-response_elicitation-"

QUESTIONS: tuple[HedsQuestion, ...] = tuple(
    HedsQuestion(*row)
    for row in (
        ("1.1.1", "paper_and_resources-paper-link", "Where the main reference is"),
        ("1.1.2", "paper_and_resources-paper-experiment_identification", "Which experiment this is about"),
        ("1.2", "paper_and_resources-resources-links", "Where the resources used are"),
        ("1.3.1.1", _PERSON + "name", "Who completes this sheet: name"),
        ("1.3.1.2", _PERSON + "affiliation", "Who completes this sheet: affiliation"),
        ("1.3.1.3", _PERSON + "email", "Who completes this sheet: e-mail address"),
        ("1.3.2.1", _AUTHOR + "name", "Contact author: name"),
        ("1.3.2.2", _AUTHOR + "affiliation", "Contact author: affiliation"),
        ("1.3.2.3", _AUTHOR + "email", "Contact author: e-mail address"),
        ("2.1", "system-input_types", "What the evaluated systems take as input"),
        ("2.2", "system-output_types", "What they put out"),
        ("2.3", "system-tasks", "The task they perform"),
        ("2.4", "system-input_languages", "Languages of the input"),
        ("2.5", "system-output_languages", "Languages of the output"),
        ("3.1.1", _SAMPLE + "number_of_system_outputs", "How many outputs of each system are evaluated"),
        ("3.1.2", _SAMPLE + "system_output_selection", "How outputs are selected"),
        ("3.1.3.1", _SAMPLE + "statistical_power-method", "Method of the power analysis"),
        ("3.1.3.2", _SAMPLE + "statistical_power-value", "Power of the sample"),
        ("3.1.3.3", _SAMPLE + "statistical_power-script", "Where the code of the power analysis is"),
        ("3.2.1", _WHO + "number_of_evaluators", "How many evaluators"),
        ("3.2.2.1", _WHO + "evaluators-expertise", "Are they experts of the domain"),
        ("3.2.2.2", _WHO + "evaluators-payment", "Are they paid"),
        ("3.2.2.3", _WHO + "evaluators-known_to_authors", "Are any known to the authors"),
        ("3.2.2.4", _WHO + "evaluators-are_authors", "Are any of the researchers among them"),
        ("3.2.3", _WHO + "recruitment_method", "How they are recruited"),
        ("3.2.4", _WHO + "training_practice", "Training and practice before they begin"),
        ("3.2.5", _WHO + "characteristics", "What else is known of them"),
        ("3.3.1", _HOW + "preregistered", "Is the design preregistered"),
        ("3.3.2", _HOW + "collection_method", "By what medium responses are collected"),
        ("3.3.3.1", _HOW + "quality_assurance-method", "Types of quality assurance"),
        ("3.3.3.2", _HOW + "quality_assurance-description", "Methods of quality assurance"),
        ("3.3.4.1", _HOW + "what_evaluators_see-link", "Where the interface can be seen"),
        ("3.3.4.2", _HOW + "what_evaluators_see-description", "What evaluators are shown"),
        ("3.3.5", _HOW + "evaluator_freedom", "How free they are in when and how quickly"),
        ("3.3.6", _HOW + "evaluators_can_ask_questions", "Can they ask questions or give feedback"),
        ("3.3.7", _HOW + "experimental_conditions", "Conditions they work in"),
        ("3.3.8", _HOW + "evaluators_place_of_choosing", "How conditions vary between them"),
        ("4.1.1", "criteria-criterion-criteria-quality_type", "Correctness, goodness or feature"),
        ("4.1.2", "criteria-criterion-criteria-output_aspect", "Form, content or both"),
        (
            "4.1.3",
            "criteria-criterion-criteria-self_vs_external_frame",
            "In its own right or relative",
        ),
        ("4.2.1", _MODE + "objective_or_subjective", "Objective or subjective"),
        ("4.2.2", _MODE + "absolute_or_relative", "Absolute or relative"),
        ("4.2.3", _MODE + "intrinsic_or_extrinsic", "Intrinsic or extrinsic"),
        ("4.3.1.1", _ASKED + "qc_name-participant_criterion_name", "Its name as evaluators see it"),
        ("4.3.1.2", _ASKED + "qc_name-mapped_criterion_name", "The standardised name it corresponds to"),
        # The form spells this field so.
        ("4.3.2", _ASKED + "participant_criterion_definiiton", "Its definition as evaluators see it"),
        ("4.3.3", _ASKED + "size_of_scale", "Size of the scale"),
        ("4.3.4", _ASKED + "list_or_range", "Values of the scale"),
        ("4.3.5", _ASKED + "scale_presented_as", "How the scale is presented"),
        ("4.3.6", _ASKED + "task_description", "The task, if there is no scale"),
        ("4.3.7", _ASKED + "verbatim_question", "The question, verbatim"),
        ("4.3.8", _ASKED + "form_of_response", "Form of response elicitation"),
        ("4.3.9", _ASKED + "response_aggregation", "How responses become scores"),
        ("4.3.10", _ASKED + "effect_size_method", "Methods for effect size and significance"),
        ("4.3.11.1", _ASKED + "inter_annotator-agreement", "How agreement between evaluators is measured"),
        ("4.3.11.2", _ASKED + "inter_annotator-agreement_score", "Agreement between evaluators"),
        (
            "4.3.12.1",
            _ASKED + "intra_annotator-intra_annotator_agreement",
            "How agreement with themselves is measured",
        ),
        (
            "4.3.12.2",
            _ASKED + "intra_annotator-intra_annotator_agreement_score",
            "Agreement with themselves",
        ),
        ("5.1", "ethics-review_body", "Which ethics committee approved it"),
        ("5.2", "ethics-personal_data", "Is there personal data"),
        ("5.3", "ethics-special_category_data", "Is there data of special categories"),
        ("5.4", "ethics-impact_assessments", "Were impact assessments carried out"),
    )
)
"""In the datasheet's order."""
