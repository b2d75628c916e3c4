"""What attribution of facts to neurons costs: every logit as published, exact, and fast.

python benchmarks/attribution.py [--facts 50] [--baseline-facts 5] [--threads 2] [--device cpu] [--json] [--write]

SmolLM2-135M in float32 on built-in facts, with the prompts of `memorization`. "published" forms, fact by fact and
layer by layer, all logits [neurons, vocabulary] of all changed residuals; it is so slow that it runs on the first
few facts only, and its time is given per fact like the others'. All three score the same neurons, heads and
sublayers from the same forward passes, whose own cost stands beside them. Memory is what the process, or the GPU,
holds at its peak beyond what it held before. CPU seconds (of all threads together) tell what the wall clock does
not where other work runs beside. --write keeps the result and rewrites the table in docs/attribution.md.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from documented import DOCS, RESULTS, with_table

from explainers.attribution import Attribution, attribute
from explainers.memorization import fact_prompt
from explainers.neuron_attribution import first_token
from quantxai import machine
from quantxai.checkpoints import load_dense, load_tokenizer
from quantxai.datasets import load_dataset, take
from quantxai.engine import TransformersModel
from quantxai.internals import Internals, Trace
from quantxai.models import pull, resolve

KEPT = RESULTS / "attribution.json"
PAGE = DOCS / "attribution.md"
TOP = 300
"""The best neurons of which fast is to find 99 %: as many as the published comparison looks at."""


@dataclass
class Cost:
    """Seconds and bytes of what ran inside.

    Attributes:
        device: where it ran.
    """

    device: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    _done: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Cost:
        # What was freed goes back to the system; otherwise its reuse would not be seen.
        gc.collect()
        if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)
        self._before = self._held()
        if self.device != "cpu":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self._start[0]
        self.cpu_seconds = time.process_time() - self._start[1]
        self._done.set()
        self._watcher.join()
        if self.device != "cpu":
            self.peak_bytes = torch.cuda.max_memory_allocated() - self._before

    def _held(self) -> int:
        if self.device != "cpu":
            return int(torch.cuda.memory_allocated())
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _watch(self) -> None:
        while self.device == "cpu" and not self._done.wait(0.01):
            self.peak_bytes = max(self.peak_bytes, self._held() - self._before)


def published(internals: Internals, traces: list[Trace], targets: list[int]) -> list[Attribution]:
    """Attribute facts with all logits of all changed residuals, a layer of a fact at a time."""
    readout = internals.readout
    unembedding, constant = readout.rows(0, readout.vocabulary), readout.constant(0, readout.vocabulary)
    found = []
    for trace, token in zip(traces, targets, strict=True):
        scale = readout.scale(trace.residuals[-1])

        def log_probs(residuals: Any, token: int = token, scale: Any = scale) -> Any:
            logits = readout.cap(residuals / scale @ unembedding.T + constant)
            return logits.log_softmax(-1)[..., token]

        neurons, ffn, attention, heads = [], [], [], []
        for layer in range(internals.layers):
            into = trace.residuals[layer]
            middle = into + trace.attention[layer]
            added = internals.ffn_output(layer).T * (trace.neurons[layer] / trace.ffn_scale[layer])[:, None]
            before_ffn, before = log_probs(middle), log_probs(into)
            neurons.append(log_probs(middle + added) - before_ffn)
            ffn.append(log_probs(middle + trace.ffn[layer]) - before_ffn)
            attention.append(before_ffn - before)
            matrix = internals.attention_output(layer) / trace.attention_scale[layer]
            parts = (matrix * trace.heads[layer]).unflatten(1, (internals.heads, -1)).sum(-1).T
            heads.append(log_probs(into + parts) - before)
        scores, order = torch.cat(neurons).sort(descending=True)
        none = order[:0]
        found.append(
            Attribution(
                logprob=float(log_probs(trace.residuals[-1])),
                layers=(order // internals.ffn_width).cpu(),
                neurons=(order % internals.ffn_width).cpu(),
                scores=scores.cpu(),
                certain=len(scores),
                ffn=torch.stack(ffn).cpu(),
                attention=torch.stack(attention).cpu(),
                heads=torch.stack(heads).cpu(),
                query_layers=none.cpu(),
                query_neurons=none.cpu(),
                query_scores=scores[:0].cpu(),
            )
        )
    return found


def by_place(internals: Internals, found: Attribution) -> Any:
    """Return scores [layers * neurons], nan where there is none."""
    scores = torch.full((internals.layers * internals.ffn_width,), torch.nan, dtype=found.scores.dtype)
    scores[found.layers * internals.ffn_width + found.neurons] = found.scores
    return scores


def difference(internals: Internals, one: Attribution, other: Attribution) -> float:
    """Return the largest difference of all scores that both have, nats."""
    pairs = [(by_place(internals, one), by_place(internals, other))]
    pairs += [(getattr(one, name), getattr(other, name)) for name in ("ffn", "attention", "heads")]
    return max(float((a - b).abs().nan_to_num(0).max()) for a, b in pairs)


def overlap(one: Attribution, other: Attribution) -> float:
    """Return the share of one's TOP neurons that are among the other's."""
    both = [set(zip(f.layers[:TOP].tolist(), f.neurons[:TOP].tolist(), strict=True)) for f in (one, other)]
    return len(both[0] & both[1]) / len(both[0])


def asked(internals: Internals, number: int) -> tuple[list[str], list[int]]:
    """Return prompts and targets of built-in facts."""
    dataset = take(load_dataset("relations"), number, seed=0)
    prompts = [fact_prompt(item, dataset, 3) for item in dataset.items]
    targets = []
    for item, prompt in zip(dataset.items, prompts, strict=True):
        token, problem = first_token(internals, prompt, item.label)
        if token is None:
            raise SystemExit(f"{item.id}: {problem}")
        targets.append(token)
    return prompts, targets


def measure(name: str, facts: int, device: str, way: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """Return what a way finds for so many facts, and its cost per fact."""
    with Cost(device) as cost:
        found = way()
    return found, {
        "way": name,
        "facts": facts,
        "seconds": cost.seconds / facts,
        "cpu_seconds": cost.cpu_seconds / facts,
        "peak_bytes": cost.peak_bytes,
    }


def result(lm: TransformersModel, facts: int, few: int, device: str) -> dict[str, Any]:
    """Measure the forward passes and the three ways, the published one last, and compare what these find."""
    internals = lm.internals()
    number = internals.layers * internals.ffn_width
    prompts, targets = asked(internals, facts)
    first = internals.trace(prompts[:1])
    attribute(internals, first, targets[:1])  # whatever happens once
    anew = lm.anew().internals()
    traces, forward_row = measure("forward pass", facts, device, lambda: anew.trace(prompts))
    fast_found, fast_row = measure("fast", facts, device, lambda: attribute(internals, traces, targets))
    exact_found, exact_row = measure(
        "exact", facts, device, lambda: attribute(internals, traces, targets, mode="exact", kept=number)
    )
    slow_found, slow_row = measure(
        "published", few, device, lambda: published(internals, traces[:few], targets[:few])
    )
    pairs = list(zip(exact_found, fast_found, strict=True))
    return {
        "model": "smollm2-135m",
        "machine": machine.host(),
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "facts": facts,
        "baseline_facts": few,
        "exact_speedup": slow_row["seconds"] / exact_row["seconds"],
        "fast_speedup": slow_row["seconds"] / fast_row["seconds"],
        "exact_cpu_speedup": slow_row["cpu_seconds"] / exact_row["cpu_seconds"],
        "fast_cpu_speedup": slow_row["cpu_seconds"] / fast_row["cpu_seconds"],
        "top300_overlap": sum(overlap(a, b) for a, b in pairs) / facts,
        "least_top300_overlap": min(overlap(a, b) for a, b in pairs),
        "least_certain": min(f.certain for f in fast_found if f.certain is not None),
        "exact_difference": max(
            difference(internals, a, b) for a, b in zip(slow_found, exact_found, strict=False)
        ),
        "fast_difference": max(difference(internals, a, b) for a, b in pairs),
        "ways": [slow_row, exact_row, fast_row, forward_row],
    }


def table(found: dict[str, Any]) -> str:
    """Return the Markdown table."""
    lines = [
        f"{found['model']}, {found['facts']} facts (published: {found['baseline_facts']}), float32, "
        f"{found['threads']} threads, {found['device']}",
        "",
        "| way | seconds a fact | CPU seconds a fact | times faster | in CPU seconds | peak memory | largest "
        "difference, nats |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["ways"]:
        name = row["way"]
        compared = (
            "| | | "
            if f"{name}_speedup" not in found
            else (f"| {found[f'{name}_speedup']:.3g} | {found[f'{name}_cpu_speedup']:.3g} | ")
        )
        off = f"{found[f'{name}_difference']:.1e}" if f"{name}_difference" in found else ""
        lines.append(
            f"| {name} | {row['seconds']:.3g} | {row['cpu_seconds']:.3g} {compared}"
            f"{row['peak_bytes'] / 2**20:.0f} MiB | {off} |"
        )
    lines += [
        "",
        f"Of exact's {TOP} best neurons fast finds {100 * found['top300_overlap']:.4g} % (at worst "
        f"{100 * found['least_top300_overlap']:.4g} % of a fact's); of its 600, at least {found['least_certain']} "
        "are proven to be the best.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--facts", type=int, default=50, help="how many facts exact and fast attribute")
    parser.add_argument("--baseline-facts", type=int, default=5, help="how many the published way does")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    parser.add_argument("--write", action="store_true", help="keep the result and rewrite the docs")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    path = pull(resolve("smollm2-135m"))
    lm = TransformersModel(load_dense(path, "float32", arguments.device), load_tokenizer(path))
    with torch.inference_mode():
        found = result(lm, arguments.facts, arguments.baseline_facts, arguments.device)
    print(table(found))
    if arguments.write:
        KEPT.write_text(json.dumps(found, indent=1) + "\n")
        PAGE.write_text(with_table(PAGE.read_text(), "attribution", table(found)))
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
