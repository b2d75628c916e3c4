"""From dialogues to prompts, and from prompts to tokens, as a model with a chat format wants them."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("transformers")

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from quantxai.errors import InputError, ModelError
from quantxai.lm import Dialogue, Exchange
from quantxai.tokenized import TokenizedModel

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}[/]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.role }} {% endfor %}"
)
WORDS = ["<s>", "</s>", "[unknown]", "The", "sky", "is", "blue"]
DIALOGUE = Dialogue(
    user="Text: rain",
    opening="<edit>",
    exchanges=(Exchange("Which words?", "rain"),),
    examples=((Exchange("Text: sun", "<edit>moon</edit>"),), (Exchange("Text: day", "<edit>night</edit>"),)),
    instruction="Change the text.",
)


class Model(TokenizedModel):
    """Only the half under test."""

    generate = logprobs = choices = None  # type: ignore[assignment]


def tokenizer(template: str | None = TEMPLATE, front: str = "<s> ") -> Any:
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[unknown]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if front:
        made.post_processor = processors.TemplateProcessing(single=f"{front}$A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", chat_template=template
    )


def model(template: str | None = TEMPLATE, front: str = "<s> ") -> Model:
    return Model(tokenizer(template, front), 64)


def test_examples_and_earlier_exchanges_are_messages_and_the_opening_begins_the_answer() -> None:
    assert model().prompt(DIALOGUE) == (
        "<s>[user]Change the text.\n\nText: sun[/][assistant]<edit>moon</edit>[/]"
        "[user]Text: day[/][assistant]<edit>night</edit>[/]"
        "[user]Which words?[/][assistant]rain[/]"
        "[user]Text: rain[/][assistant]<edit>"
    )


def test_the_instruction_stands_before_the_question_where_nothing_comes_before_it() -> None:
    assert model().prompt(Dialogue("Why?", instruction="Be short.")) == (
        "<s>[user]Be short.\n\nWhy?[/][assistant]"
    )
    assert model().prompt(Dialogue("Why?")) == "<s>[user]Why?[/][assistant]"


def test_without_a_chat_template_or_on_request_the_prompt_is_plain() -> None:
    assert model(template=None).prompt(DIALOGUE) == DIALOGUE.plain()
    assert model().prompt(DIALOGUE, chat=False) == DIALOGUE.plain()


def test_a_template_that_wants_user_and_assistant_in_turn_gets_them() -> None:
    assert model(ALTERNATING).prompt(DIALOGUE).endswith("user <edit>")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('only one question') }}", "only one question"),
        ("{{ messages[0].content + 1 }}", "can only concatenate"),
        ("{% for %}", "Expected an expression"),
    ],
)
def test_a_template_that_refuses_is_a_clear_error(template: str, reason: str) -> None:
    with pytest.raises(ModelError, match=f"does not take a dialogue of 7 messages.*{reason}"):
        model(template).prompt(DIALOGUE)


def test_a_template_that_asks_for_the_day_is_told_the_same_one_every_day() -> None:
    template = "{% if date_string is not defined %}{% set date_string = strftime_now('%F') %}{% endif %}"
    assert model(template + "{{ date_string }}:").prompt(DIALOGUE) == "26 Jul 2024:<edit>"


def test_a_template_with_a_thinking_phase_leaves_it_out() -> None:
    assert model("{{ enable_thinking }} ").prompt(DIALOGUE) == "False <edit>"


# Tokens


def test_a_rendered_prompt_keeps_its_one_beginning_of_text_token() -> None:
    lm = model("{{ bos_token }} {{ messages[0].content }}")
    asked = lm.prompt(Dialogue("The sky"))

    assert asked == "<s> The sky"
    assert lm.tokenizer(asked).input_ids == [0, 0, 3, 4], "what the tokenizer does by itself"
    assert lm._encode(asked) == lm._encode("The sky") == [0, 3, 4]
    assert lm._encode_pair(asked, " is blue") == ([0, 3, 4, 5, 6], 2)


def test_several_tokens_in_front_of_every_text_stand_there_once() -> None:
    lm = model(front="<s> <s> ")

    assert lm._encode("The") == [0, 0, 3]
    assert lm._encode("<s> <s> The") == [0, 0, 3]


def test_without_special_tokens_a_text_is_encoded_as_it_is() -> None:
    lm = model(front="")

    assert lm._encode("<s> <s> The") == [0, 0, 3]
    assert lm._encode_pair("", "The sky") == ([3, 4], 1)
    with pytest.raises(InputError, match="empty prompt"):
        lm._encode("")


def test_after_an_empty_prompt_the_beginning_of_text_token_predicts_the_first_token() -> None:
    assert model()._encode_pair("", "The sky") == ([0, 3, 4], 2)
