"""What `quantxai plan` predicts from a configuration, beside what is measured here.

python benchmarks/footprint.py [--model DIR] [--dtype bfloat16] [--quick] [--json] [--write]

Two random Llamas of 49 and 163 million parameters and, with --model, a checkpoint: bytes of the loaded
weights, of keys and values, and the peak memory of quantizing, measured in a process of its own; seconds
of quantizing and of reading 4,096 tokens, on one thread. --quick leaves out GPTQ and AWQ and reads 512 tokens;
--write keeps the result and rewrites the table in docs/quantizers.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before numpy is imported, whose rate is measured
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

from documented import DOCS, RESULTS, with_table
from stored import stored_bytes

from quantxai import registry
from quantxai.config import Calibration, VariantConfig
from quantxai.devices import Device, this_machine
from quantxai.footprint import (
    LIBRARY_BYTES,
    kv_cache_bytes,
    quantization_seconds,
    reading_seconds,
    weights_bytes,
)
from quantxai.methods import Quantizer
from quantxai.models import described
from quantxai.shapes import Shape, shape_of
from quantxai.variants import Variant

KEPT = RESULTS / "footprint.json"
PAGE = DOCS / "quantizers.md"
LLAMAS = {
    "49M": {
        "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 4, "vocab_size": 49152,
    },
    "163M": {
        "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 10, "num_attention_heads": 16,
        "num_key_value_heads": 4, "vocab_size": 49152,
    },
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "bnb int8": {"format": "int8"},
    "bnb nf4": {},
    "rtn": {},
    "fp8": {},
    "compressed-tensors": {},
    "awq": {},
    "gptq": {},
}
CALIBRATION = Calibration()
TOKENS, FEW_TOKENS = 4096, 512
BOUND = 0.15


def make_llama(settings: dict[str, int], out: Path) -> None:
    """Write a random Llama in bfloat16 with a word-level tokenizer of its vocabulary."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(**settings, tie_word_embeddings=True, max_position_embeddings=2048)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(out)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(settings["vocab_size"])}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="w0").save_pretrained(out)


def status(key: str) -> int:
    """Bytes that Linux counts for this process."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return int(line.split()[1]) * 1024


def measure(
    parent: Path, out: Path, method: str, options: dict[str, Any], tokens: int, dtype: str
) -> dict[str, float]:
    """Measure one method on one model in a float type, reading so many tokens, in this process."""
    import torch

    torch.set_num_threads(1)
    quantizer = registry.method("quantizer", method).model_validate(options)
    found: dict[str, float] = {}
    if quantizer.writes_checkpoint:
        # The libraries are loaded before the peak is measured.
        import transformers.models.llama.modeling_llama  # noqa: F401

        from quantizers.gptqmodel_support import import_gptqmodel

        import_gptqmodel()
        count = quantizer.calibration_sequences(CALIBRATION.sequences, CALIBRATION.length)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(1, 49000, (count, CALIBRATION.length), generator=generator).tolist()
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        start = time.perf_counter()
        read_in = quantizer.calibration_dtype("cpu", dtype)
        quantizer.quantize(
            parent, ids if quantizer.calibrated else [], out, "cpu", read_in, lambda model: None
        )
        found |= {"quantization seconds": time.perf_counter() - start, "peak": status("VmHWM:")}
        return found
    model = quantizer.load(parent, kernel_dtype(quantizer, dtype), "cpu")
    found["weights"] = stored_bytes(model)
    if method == "full":
        with torch.inference_mode():
            ids = torch.randint(1, 49000, (tokens // 128, 128), generator=torch.Generator().manual_seed(0))
            model(ids, logits_to_keep=1)
            start = time.perf_counter()
            cache = model(ids, logits_to_keep=1, use_cache=True).past_key_values
            found["reading seconds"] = time.perf_counter() - start
        found["keys and values"] = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    return found


def kernel_dtype(quantizer: Quantizer, dtype: str) -> str:
    """Return the float type its kernel runs in."""
    return dtype if dtype in quantizer.kernel_dtypes else "float16"


def load_made(made: Path, method: str, options: dict[str, Any], dtype: str) -> dict[str, float]:
    """Measure what a written checkpoint holds when it is loaded."""
    quantizer = registry.method("quantizer", method).model_validate(options)
    return {"weights": stored_bytes(quantizer.load(made, kernel_dtype(quantizer, dtype), "cpu"))}


def apart(function: Any, *arguments: Any) -> Any:
    """Return function(*arguments), computed in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def here(function: Any, *arguments: Any) -> Any:
    """Return function(*arguments), computed in this process."""
    return function(*arguments)


def compare(
    name: str, parent: Path, methods: dict[str, dict[str, Any]], tokens: int, dtype: str
) -> Iterator[dict[str, Any]]:
    """Yield prediction and measurement of every quantity."""
    source = described(str(parent))
    shape = shape_of(json.loads((parent / "config.json").read_text()))
    device = this_machine(dtype)
    for title, options in methods.items():
        method = title.split()[0]
        with tempfile.TemporaryDirectory() as scratch:
            # A peak is that of a process which did nothing else; all other bytes are counted.
            writes = registry.method("quantizer", method).writes_checkpoint
            found = (apart if writes else here)(
                measure, parent, Path(scratch), method, options, tokens, dtype
            )
            if writes:
                found |= load_made(Path(scratch), method, options, dtype)
        predicted = predictions(source, shape, method, options, device, tokens)
        for quantity, value in found.items():
            ratio = predicted[quantity] / value
            yield {
                "model": name, "method": title, "quantity": quantity, "measured": value,
                "predicted": predicted[quantity], "ratio": round(ratio, 3), "gflops": round(device.flops / 1e9, 1),
            }  # fmt: skip


def predictions(
    source: Any, shape: Shape, method: str, options: dict[str, Any], device: Device, read: int
) -> dict[str, float]:
    """What the footprint says of the same quantities."""
    quantizer = registry.method("quantizer", method).model_validate(options)
    dtype = kernel_dtype(quantizer, device.dtype)
    entry = VariantConfig(name=method, quantizer=method, options=options)
    variant = Variant(entry, quantizer, source, CALIBRATION, dtype, "cpu", "kernel", device.dtype)
    tokens = CALIBRATION.length * quantizer.calibration_sequences(CALIBRATION.sequences, CALIBRATION.length)
    return {
        "weights": weights_bytes(quantizer, shape, dtype),
        "keys and values": kv_cache_bytes(shape, device.dtype, read),
        "peak": LIBRARY_BYTES["cpu"] + quantizer.making_bytes(shape, tokens, device),
        "quantization seconds": quantization_seconds(variant, shape, device),
        "reading seconds": reading_seconds(read, shape, device),
    }


def figures(row: dict[str, Any]) -> list[str]:
    """Return prediction and measurement in words."""
    seconds = row["quantity"].endswith("seconds")
    return [f"{row[k]:.1f} s" if seconds else f"{row[k] / 1e6:.1f} MB" for k in ("predicted", "measured")]


def line(row: dict[str, Any]) -> str:
    """Return a line for the terminal."""
    predicted, measured = figures(row)
    return f"{row['model']:14}{row['method']:20}{row['quantity']:22}{predicted:>12}{measured:>12}{row['ratio']:8.2f}"


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table: predicted, measured and their ratio, a column for each model."""
    names = list(dict.fromkeys(row["model"] for row in rows))
    lines = [f"| method | quantity | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for method, quantity in dict.fromkeys((row["method"], row["quantity"]) for row in rows):
        cells = []
        for name in names:
            wanted = (name, method, quantity)
            row = next(r for r in rows if (r["model"], r["method"], r["quantity"]) == wanted)
            predicted, measured = figures(row)
            cells.append(f"{predicted.split()[0]} / {measured} ({row['ratio']:.2f})")
        lines.append(f"| {method} | {quantity} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a checkpoint to measure as well")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS), help="these methods")
    parser.add_argument("--quick", action="store_true", help="without GPTQ and AWQ, few tokens")
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    parser.add_argument("--write", action="store_true", help="keep the result and rewrite the docs")
    arguments = parser.parse_args()
    left_out = {"gptq", "awq"} if arguments.quick else set()
    methods = {k: v for k, v in METHODS.items() if k in arguments.only and k not in left_out}
    tokens = FEW_TOKENS if arguments.quick else TOKENS
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        places = {name: Path(scratch) / name for name in LLAMAS}
        for name, settings in LLAMAS.items():
            make_llama(settings, places[name])
        if arguments.model is not None:
            places[arguments.model.name] = arguments.model
        for name, parent in places.items():
            for row in compare(name, parent, methods, tokens, arguments.dtype):
                rows.append(row)
                print(line(row), flush=True)
    worst = {
        kind: max(
            (abs(r["ratio"] - 1) for r in rows if r["quantity"].endswith("seconds") == (kind == "time")),
            default=0,
        )
        for kind in ("memory", "time")
    }
    print("largest error: " + ", ".join(f"{k} {v:.0%}" for k, v in worst.items()) + f" (bound: {BOUND:.0%})")
    if arguments.write:
        KEPT.write_text(json.dumps(rows, indent=1) + "\n")
        PAGE.write_text(with_table(PAGE.read_text(), "footprint", table(rows)))
    if arguments.json:
        print(json.dumps({"rows": rows, **{f"largest_{k}_error": round(v, 3) for k, v in worst.items()}}))


if __name__ == "__main__":
    main()
