"""BARTScore (Yuan et al. 2021, arXiv 2106.11520): how likely is one explanation, given the other?

The mean log-likelihood, in nats per token, of a target text given a source text, under one fixed model:

    score = 1/m * sum over t of log p(y_t | y_<t, x)

The paper's weights are uniform, which its authors' code writes as the sum over the target's length. That
length, and the sum, include what the tokenizer puts around the target (<s> and </s> for BART): the seq2seq
path does the same, so that values with the paper's checkpoint (facebook/bart-large-cnn) are the published ones.

A causal model continues a prompt instead: the source in a line of its own, then "In other words:", then the
target, whose tokens alone are scored. Such values compare variants; they are no published BARTScores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from explainers.natural_language import ExplanationRow
from explainers.scorers import rows_of
from quantxai.datasets import Dataset
from quantxai.errors import ModelError
from quantxai.methods import Score, Scorer, ScoringContext
from quantxai.records import Metric, Row

__all__ = ["BartScore", "seq2seq_scores"]

_BATCH = 8
"""Pairs a seq2seq model reads at a time."""


class BartScore(Scorer):
    """How likely a language model finds the gold explanation after the model's, or the reverse."""

    method: ClassVar[str] = "bartscore"
    summary: ClassVar[str] = "log-likelihood of the gold explanation given the explanation, or the reverse"
    explainers: ClassVar[frozenset[str]] = frozenset({"natural_language"})
    reads: ClassVar[float] = 1.0
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            name="bartscore",
            kind="continuous",
            higher_is_better=True,
            margin=0.1,
            margin_reason="A tenth of a token's probability, and a sixth of the spread between items (SD 0.59 on the "
            "built-in inference set).",
            unit="nats per token",
            description="Mean log-likelihood of the gold explanation's tokens given the explanation (option "
            "direction: or the reverse), under one model for all variants: the unquantized parent, unless the "
            "option model names another. Higher, nearer to 0, is better.",
        ),
    )

    model: str = Field(
        default="parent",
        min_length=1,
        description="Whose likelihood: parent, or a causal or sequence-to-sequence language model (such as "
        "facebook/bart-large-cnn) by registered name, Hub id or directory.",
    )
    direction: Literal["reference_given_explanation", "explanation_given_reference"] = Field(
        default="reference_given_explanation",
        description="What is scored given what: the first asks what the explanation covers of the gold one "
        "(recall), the other what the gold one supports of it (precision).",
    )

    @property
    def models(self) -> tuple[str, ...]:
        """See Scorer.models."""
        return () if self.model == "parent" else (self.model,)

    def scores(self, rows: Sequence[Row], dataset: Dataset, context: ScoringContext) -> Iterator[Score]:
        """See Scorer.scores; no value where explanation or gold explanation is missing."""
        explained = rows_of(rows, ExplanationRow)
        context.note("model", self.model)
        context.note("direction", self.direction)
        pairs: dict[str, tuple[str, str]] = {}
        for row in explained:
            if row.explanation is not None and row.reference is not None:
                pair = row.explanation, row.reference
                pairs[row.item] = pair if self.direction == "reference_given_explanation" else pair[::-1]
        distinct = list(dict.fromkeys(pairs.values()))
        known = dict(zip(distinct, self._likelihoods(distinct, context), strict=True))
        for row in explained:
            yield Score(
                row.item, row.group, "bartscore", known[pairs[row.item]] if row.item in pairs else None
            )

    def _likelihoods(
        self, pairs: Sequence[tuple[str, str]], context: ScoringContext
    ) -> Sequence[float | None]:
        if not pairs:
            return []
        if self.model != "parent":
            path = context.checkpoint(self.model)
            if json.loads((path / "config.json").read_text()).get("is_encoder_decoder"):
                loaded = context.remember(f"seq2seq {self.model}", lambda: _load(path, context.device))
                return seq2seq_scores(*loaded, pairs)
        lm = context.parent() if self.model == "parent" else context.model(self.model)
        prompts = [f"{source}\nIn other words:" for source, _ in pairs]
        scored = lm.logprobs(prompts, [f" {target}" for _, target in pairs])
        return [sum(s.logprobs) / len(s.logprobs) if s.logprobs else None for s in scored]


def seq2seq_scores(model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Return the mean log-likelihood of each target given its source, nats per token.

    Texts longer than the model's positions are cut off, as in the authors' code.

    Args:
        model: a transformers sequence-to-sequence model in evaluation mode.
        tokenizer: its tokenizer; what it puts around a target is scored, too.
        pairs: source and target.
    """
    import torch

    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 1024))
    how = {"padding": True, "truncation": True, "max_length": longest, "return_tensors": "pt"}
    found: list[float] = []
    for start in range(0, len(pairs), _BATCH):
        sources, targets = (list(side) for side in zip(*pairs[start : start + _BATCH], strict=True))
        source = tokenizer(sources, **how).to(model.device)
        target = tokenizer(text_target=targets, **how).to(model.device)
        with torch.inference_mode():
            logits = model(
                input_ids=source.input_ids,
                attention_mask=source.attention_mask,
                # The model shifts them right to get the decoder's input.
                labels=target.input_ids,
            ).logits
        logprobs = logits.float().log_softmax(-1).gather(-1, target.input_ids[..., None])[..., 0]
        # By the mask, not by the padding token: some tokenizers pad with one that texts hold as well.
        real = target.attention_mask.to(logprobs.dtype)
        found += ((logprobs * real).sum(1) / real.sum(1)).tolist()
    return found


def _load(path: Any, device: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    try:
        # In float32 whatever the sweep computes in: the judge is no variant.
        model = AutoModelForSeq2SeqLM.from_pretrained(path, dtype="float32").to(device).eval()
        return model, AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"sequence-to-sequence model '{path}' cannot be loaded: {reason}") from error
