"""A Llama of 140 thousand parameters that has learned something, trained in seconds on one core.

A random model hides bugs: its distributions are flat, its ranks meaningless, and quantization changes
nothing that matters. This one completes the facts of `FACTS` relations and has seen the calibration
texts, so recall, perplexity and quantization error behave as in a real model.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from quantxai.datasets import calibration_texts, load_dataset
from quantxai.records import Item

RELATIONS = ("country capital city", "word opposite", "book author")
"""Relations of the built-in set whose facts the model learns."""
LEARNED = 4
"""Facts learned of each relation: its first ones."""
CONTEXT = 1024
HIDDEN = 64
LAYERS = 2
STEPS = 200
LENGTH = 80
RATE = 5e-3
END = "<|end|>"
"""End of text; the tokenizer's padding is this token too, as in many models."""


def learned_facts() -> list[Item]:
    """The evaluated facts that the model was trained on."""
    items = load_dataset("relations").items
    return [item for relation in RELATIONS for item in [i for i in items if i.group == relation][:LEARNED]]


def fact_sentence(item: Item) -> str:
    """A fact as the model saw it."""
    return f"{item.fields['template'].replace('{}', item.text)} {item.label}."


def build(directory: Path) -> Path:
    """Train the model and its tokenizer and save both; the same files every time.

    Args:
        directory: where to save.

    Returns:
        The directory.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    rng = random.Random(0)
    texts, lessons = calibration_texts(0), _lessons(rng)
    tokenizer = _tokenizer([*texts, *lessons])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = LlamaForCausalLM(config)
            _train(model, tokenizer, texts, lessons, rng)
    finally:
        torch.set_num_threads(threads)
    model.eval().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _lessons(rng: random.Random) -> list[str]:
    """Documents of facts, one to a line, as few-shot prompts show them."""
    data = load_dataset("relations")
    documents = []
    for relation in RELATIONS:
        known = [fact_sentence(i) for i in data.demonstrations if i.group == relation]
        for item in learned_facts():
            if item.group == relation:
                for _ in range(4):
                    shown = rng.sample(known, 3)
                    documents.append("\n".join([*shown, fact_sentence(item)]))
                documents.append(fact_sentence(item))
    return documents


def _tokenizer(texts: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False
    )


def _train(model: Any, tokenizer: Any, texts: list[str], lessons: list[str], rng: random.Random) -> None:
    import torch

    def stream(documents: list[str]) -> list[int]:
        rng.shuffle(documents)
        return [token for d in documents for token in [*tokenizer(d).input_ids, tokenizer.eos_token_id]]

    def window(tokens: list[int]) -> list[int]:
        start = rng.randrange(len(tokens) - LENGTH)
        return tokens[start : start + LENGTH]

    taught, background = stream(lessons), stream(list(texts))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=0.1)
    for _ in range(STEPS):
        rows = torch.tensor([window(taught) for _ in range(4)] + [window(background) for _ in range(2)])
        loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
