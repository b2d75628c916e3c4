"""The sums inside neuron attribution: explainers.log_sum_exp beside the obvious way and beside the floor.

The obvious way is torch.logsumexp(base[:, None] + factors[..., None] * changes, -1). The floor on a CPU is
one exponential per fact, neuron and token, from and into a core's cache, by torch.exp and by torch.exp2; on a
GPU it is reading and writing every argument and result once (every 8 facts read `changes` again).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from explainers.log_sum_exp import added_log_sum_exp, log_sum_exp

CACHED = 2**17
"""Numbers that each thread works on for the floor: 512 KiB in float32."""
GPU_BYTES_PER_SECOND = {"H100": 3.35e12, "H200": 4.8e12, "A100": 2.0e12}
"""What the makers state, for the share of it that the kernel reaches."""


CLOCKS = {"wall": time.perf_counter, "cores": time.process_time}


def best_of(call: Callable[[], Any], options: argparse.Namespace, repeats: int) -> float:
    """Return the shortest of some runs after one to warm up, seconds."""
    device, clock = options.device, CLOCKS[options.clock]
    call()
    times = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start = clock()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return min(times)


def floors(options: argparse.Namespace) -> dict[str, float]:
    """Exponentials per second on the CPU, of numbers in the cache."""
    numbers = torch.randn(CACHED * torch.get_num_threads())
    out = torch.empty_like(numbers)
    rate = {}
    for function in (torch.exp, torch.exp2):

        def call(function: Callable[..., Any] = function) -> None:
            for _ in range(20):
                function(numbers, out=out)

        rate[function.__name__] = 20 * len(numbers) / best_of(call, options, options.repeats)
    return rate


def obvious(
    base: torch.Tensor, changes: torch.Tensor, factors: torch.Tensor, softcap: float | None
) -> torch.Tensor:
    """The same in one line, with [facts, neurons, v] in memory."""
    z = base[:, None] + factors[..., None] * changes
    return torch.logsumexp(z if softcap is None else softcap * torch.tanh(z / softcap), -1)


def measure(options: argparse.Namespace, softcap: float | None) -> dict[str, float]:
    """Numbers per second, both ways, and how far apart they are."""
    torch.manual_seed(0)
    facts, neurons, tokens, device = options.facts, options.neurons, options.tokens, options.device
    base = 3 * torch.randn(facts, tokens, device=device)
    changes = 0.3 * torch.randn(neurons, tokens, device=device)
    factors = torch.randn(facts, neurons, device=device)
    arguments = (base, changes, factors, softcap)
    difference = (log_sum_exp(added_log_sum_exp(*arguments)) - obvious(*arguments)).abs().max().item()
    ours = best_of(lambda: added_log_sum_exp(*arguments), options, options.repeats)
    theirs = best_of(lambda: obvious(*arguments), options, max(1, options.repeats // 3))
    numbers = facts * neurons * tokens
    least_bytes = 4 * (neurons * tokens + facts * tokens + 3 * facts * neurons)
    return {
        "obvious_per_s": numbers / theirs,
        "quantxai_per_s": numbers / ours,
        "times_faster": theirs / ours,
        "largest_difference_nats": difference,
        "seconds": ours,
        "least_bytes": least_bytes,
        "least_bytes_per_s": least_bytes / ours,
    }


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Everything measured."""
    found: dict[str, Any] = {"benchmark": "log_sum_exp", "device": platform.processor() or "cpu"}
    found |= {
        "clock": options.clock,
        "facts": options.facts,
        "neurons": options.neurons,
        "tokens": options.tokens,
    }
    found |= {"no_cap": measure(options, None), "softcap_30": measure(options, 30.0)}
    if options.device == "cpu":
        found |= {"threads": torch.get_num_threads(), "floor_per_s": floors(options)}
        for function, rate in found["floor_per_s"].items():
            found["no_cap"][f"of_{function}"] = found["no_cap"]["quantxai_per_s"] / rate
        return found
    found["device"] = torch.cuda.get_device_name()
    for part, bandwidth in GPU_BYTES_PER_SECOND.items():
        if part in found["device"]:
            for result in (found["no_cap"], found["softcap_30"]):
                result["of_memory"] = result["least_bytes_per_s"] / bandwidth
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if on_gpu else "cpu")
    parser.add_argument("--facts", type=int, default=8)
    parser.add_argument(
        "--neurons",
        type=int,
        default=8192 if on_gpu else 1536,
        help="those of a layer: SmolLM2-135M has 1536",
    )
    parser.add_argument(
        "--tokens", type=int, default=32768 if on_gpu else 4096, help="in the block of vocabulary"
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cores: seconds of cores, where others use them, too"
    )
    parser.add_argument("--out", type=Path, help="file to write the JSON to")
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    found = report(options)
    print(f"{options.facts} facts, {options.neurons} neurons, {options.tokens} tokens, {found['device']}")
    for name, rate in found.get("floor_per_s", {}).items():
        print(f"  {'floor: torch.' + name:26} {rate:12.4g} per second")
    for name in ("no_cap", "softcap_30"):
        print(name)
        for key, value in found[name].items():
            print(f"  {key:26} {value:12.4g}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
