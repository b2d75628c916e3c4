"""Tokens per second of the engine beside transformers' own text-generation pipeline, same model, same prompts.

python benchmarks/generation.py [--repeats N] [--items N] [--only pipeline|joining] [--json] [--write]

The prompts are those of the naive counterfactual edits of all built-in news on SmolLM2-135M, greedy, with
the explainer's own limit and stop strings, which the pipeline is given too. In float32, where no two
tokens tie, both must write the same texts; timed is the type that a sweep computes in by default. The
pipeline runs with several batch sizes and is compared at its best. Runs take turns; what is compared is
the median of the ratios of neighbours, in seconds and, since other processes may be at work, in seconds of
processor time. What it means that waiting prompts join a running batch is measured on these prompts, whose
edits are of like lengths, and on news cut off after 60 characters, whose first sentences are not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from documented import RESULTS
from numpy.typing import NDArray

from explainers.counterfactual import Counterfactual
from quantxai import engine, machine
from quantxai.checkpoints import load_dense, load_tokenizer
from quantxai.datasets import load_dataset
from quantxai.engine import TransformersModel
from quantxai.lm import Continuation, Generation
from quantxai.models import pull, resolve
from quantxai.tokenized import TokenizedModel

KEPT = RESULTS / "generation.json"
BATCHES = (8, 16, 32)
FEW = 48
"""Prompts on which batch sizes and joining are tried."""
CUT, CUT_TOKENS = 60, 96
NEVER = 2.0**60
"""In place of engine.REFILL: a batch ends before another begins."""


class Asked(NamedTuple):
    """One call of `generate`."""

    prompts: list[str]
    max_new_tokens: int
    stop: tuple[str, ...]


class Recorder(TokenizedModel):
    """Writes prompts as the real model does and keeps what it is asked to generate."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer, 2**30)
        self.asked: list[Asked] = []

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int, stop: Sequence[str] = (), **_: Any
    ) -> list[Generation]:
        """Say nothing."""
        self.asked.append(Asked(list(prompts), max_new_tokens, tuple(stop)))
        return [Generation("", 0, "end")] * len(prompts)

    def logprobs(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Continuation]:
        """Find everything equally likely."""
        return [Continuation((0.0,), (1,))] * len(prompts)

    def choices(self, prompts: Sequence[str], choices: Sequence[str]) -> NDArray[np.float64]:
        """Find everything equally likely."""
        return np.zeros((len(prompts), len(choices)))


def edit_prompts(tokenizer: Any, items: int) -> Asked:
    """Return what the explainer `counterfactual` asks about the first of the built-in news."""
    news, recorder = load_dataset("news"), Recorder(tokenizer)
    list(Counterfactual(max_new_tokens=40).rows(recorder, news, news.items[:items], seed=0))
    (asked,) = recorder.asked
    return asked


class Run(NamedTuple):
    """What one contestant wrote in one run, and what it took."""

    texts: list[str]
    tokens: int
    seconds: float
    cpu_seconds: float


def timed(call: Callable[[], tuple[list[str], int]]) -> Run:
    """Call once."""
    start, used = time.perf_counter(), time.process_time()
    texts, tokens = call()
    return Run(texts, tokens, time.perf_counter() - start, time.process_time() - used)


def ours(model: Any, tokenizer: Any, asked: Asked, refill: float = engine.REFILL) -> Run:
    """Generate with quantxai, at the default sweep's token budget."""

    def call() -> tuple[list[str], int]:
        lm = TransformersModel(model, tokenizer, batch_tokens=4096)
        found = lm.generate(asked.prompts, max_new_tokens=asked.max_new_tokens, stop=asked.stop)
        return [g.text for g in found], sum(g.tokens for g in found)

    usual, engine.REFILL = engine.REFILL, refill
    try:
        return timed(call)
    finally:
        engine.REFILL = usual


def theirs(pipe: Any, tokenizer: Any, asked: Asked, batch: int) -> Run:
    """Generate with the pipeline."""

    def call() -> tuple[list[str], int]:
        found = pipe(
            asked.prompts,
            batch_size=batch,
            max_new_tokens=asked.max_new_tokens,
            do_sample=False,
            stop_strings=list(asked.stop),
            tokenizer=tokenizer,
            return_full_text=False,
        )
        said = [f[0]["generated_text"] for f in found]
        tokens = sum(len(tokenizer(text, add_special_tokens=False).input_ids) for text in said)
        return [text[: first_stop(text, asked.stop)] for text in said], tokens

    return timed(call)


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Return where the first stop string begins."""
    return min((at for s in stop if (at := text.find(s)) >= 0), default=None)


def in_turns(repeats: int, contestants: dict[str, Callable[[], Run]]) -> dict[str, list[Run]]:
    """Run every contestant in turn, over and over."""
    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            runs[name].append(run())
            tokens, seconds = runs[name][-1].tokens, runs[name][-1].seconds
            print(
                f"  {name:40} {tokens:6} tokens {seconds:7.1f} s {tokens / seconds:7.1f} tokens/s", flush=True
            )
    return runs


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Return a contestant's numbers, one for each run."""
    return {
        "tokens": [r.tokens for r in runs],
        "seconds": [round(r.seconds, 2) for r in runs],
        "cpu_seconds": [round(r.cpu_seconds, 2) for r in runs],
        "tokens_per_second": [round(r.tokens / r.seconds, 1) for r in runs],
    }


def ratios(one: Sequence[Run], other: Sequence[Run]) -> dict[str, Any]:
    """Return how many times more tokens a second one contestant writes than another, turn by turn."""
    pairs = list(zip(one, other, strict=True))
    wall = [(a.tokens / a.seconds) / (b.tokens / b.seconds) for a, b in pairs]
    cpu = [(a.tokens / a.cpu_seconds) / (b.tokens / b.cpu_seconds) for a, b in pairs]
    return {
        "seconds": [round(r, 2) for r in wall],
        "seconds_median": round(statistics.median(wall), 2),
        "cpu_seconds": [round(r, 2) for r in cpu],
        "cpu_seconds_median": round(statistics.median(cpu), 2),
    }


def beside_pipeline(path: Path, tokenizer: Any, asked: Asked, repeats: int) -> dict[str, Any]:
    """Compare with the pipeline: the texts in float32, then the time."""
    lengths = [len(tokenizer(p).input_ids) for p in asked.prompts]

    def loaded(dtype: str) -> tuple[Any, Any]:
        model = load_dense(path, dtype, "cpu")
        return model, transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)

    print("float32: the same texts?")
    model, pipe = loaded("float32")
    exact = in_turns(
        1,
        {
            "quantxai": lambda: ours(model, tokenizer, asked),
            "pipeline": lambda: theirs(pipe, tokenizer, asked, BATCHES[1]),
        },
    )
    differing = [
        (a, b) for a, b in zip(exact["quantxai"][0].texts, exact["pipeline"][0].texts, strict=True) if a != b
    ]
    assert not differing, f"{len(differing)} texts differ, such as {differing[0]}"

    dtype = machine.default_dtype("cpu")
    print(f"{dtype}: the pipeline's best batch size")
    model, pipe = loaded(dtype)
    few = asked._replace(prompts=asked.prompts[:FEW])
    tried = in_turns(1, {f"pipeline {b}": lambda b=b: theirs(pipe, tokenizer, few, b) for b in BATCHES})
    best = min(BATCHES, key=lambda b: tried[f"pipeline {b}"][0].cpu_seconds)

    print(f"{dtype}: in turns, the pipeline at {best}")
    edits = in_turns(
        repeats,
        {
            "quantxai": lambda: ours(model, tokenizer, asked),
            "pipeline": lambda: theirs(pipe, tokenizer, asked, best),
        },
    )
    same = sum(a == b for a, b in zip(edits["quantxai"][0].texts, edits["pipeline"][0].texts, strict=True))
    return {
        "prompts": len(asked.prompts),
        "prompt_tokens_mean": round(statistics.mean(lengths), 1),
        "max_new_tokens": asked.max_new_tokens,
        "stop": list(asked.stop),
        "float32": {"same_texts": len(asked.prompts), **{n: summary(r) for n, r in exact.items()}},
        "dtype": dtype,
        "same_texts": same,
        "pipeline_batch_sizes": {n: summary(r) for n, r in tried.items()},
        "pipeline_batch_size": best,
        "runs": {n: summary(r) for n, r in edits.items()},
        "ratios": {"quantxai to pipeline": ratios(edits["quantxai"], edits["pipeline"])},
    }


def joining(path: Path, tokenizer: Any, asked: Asked, repeats: int) -> dict[str, Any]:
    """Compare with an engine whose batches end before others begin."""
    dtype = machine.default_dtype("cpu")
    model = load_dense(path, dtype, "cpu")
    cut = Asked([i.text[:CUT] for i in load_dataset("news").items], CUT_TOKENS, (".",))
    found: dict[str, dict[str, list[Run]]] = {}
    for name, calls in (("edits", asked._replace(prompts=asked.prompts[:FEW])), ("sentences", cut)):
        print(f"{dtype}: joining a running batch, {name}")
        found[name] = in_turns(
            repeats,
            {
                "joining": lambda calls=calls: ours(model, tokenizer, calls),
                "batch after batch": lambda calls=calls: ours(model, tokenizer, calls, NEVER),
            },
        )
    return {
        "dtype": dtype,
        "runs": {name: {n: summary(r) for n, r in runs.items()} for name, runs in found.items()},
        "ratios": {
            f"joining to batch after batch, {name}": ratios(runs["joining"], runs["batch after batch"])
            for name, runs in found.items()
        },
    }


PARTS = {"pipeline": beside_pipeline, "joining": joining}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--items", type=int, default=160, help="of the built-in news, for the edits")
    parser.add_argument("--only", choices=PARTS, help="one part; the kept result of the other stays")
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    parser.add_argument("--write", action="store_true", help="keep the result")
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(machine.cores())
    path = pull(resolve("smollm2-135m"), print)
    tokenizer = load_tokenizer(path)
    tokenizer.padding_side = "left"  # the pipeline pads where it is told to
    asked = edit_prompts(tokenizer, options.items)
    result = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    for part in [options.only] if options.only else PARTS:
        load = os.getloadavg()[0]
        found = PARTS[part](path, tokenizer, asked, options.repeats)
        for name, ratio in found["ratios"].items():
            print(
                f"{name}: {ratio['seconds_median']} in seconds, {ratio['cpu_seconds_median']} in processor time"
            )
        result[part] = {
            "model": "smollm2-135m",
            "host": machine.host(),
            "versions": {name: machine.versions()[name] for name in ("torch", "transformers")},
            "load_average": [round(load, 1), round(os.getloadavg()[0], 1)],
            **found,
        }
    if options.write:
        KEPT.write_text(json.dumps(result, indent=1) + "\n")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
