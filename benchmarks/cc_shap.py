"""How far CC-SHAP from a sample of coalitions is from CC-SHAP from all of them, and what each costs.

python benchmarks/cc_shap.py [--items 6] [--dtype float32] [--write]

The real SmolLM2-135M-Instruct on built-in inference pairs, whose words are joined to 10 players. Each item is
scored as by default, which is timed, and then from all 1,024 coalitions. The default's error depends on which
coalitions it draws: it is given for 50 seeds, whose values are looked up among those of all coalitions.
--write keeps the result in benchmarks/results after every item, float32 and bfloat16 side by side.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
from documented import RESULTS
from numpy.typing import NDArray

from explainers.cc_shap import CCSHAP, games, players_of, ratios
from explainers.scorers.faithfulness import CCSHAPScorer
from explainers.shapley import Coalitions, coalitions, shapley_values
from quantxai import machine
from quantxai.checkpoints import load_dense, load_tokenizer
from quantxai.datasets import Dataset, load_dataset, take
from quantxai.engine import TransformersModel
from quantxai.models import pull, resolve
from quantxai.records import Item

KEPT = RESULTS / "cc_shap.json"
SEEDS = 50
BUDGETS = (32, 64, 128, 256)
"""Other numbers of coalitions whose error is given."""


def score(asked: Coalitions, values: NDArray[np.float64]) -> float:
    """Return CC-SHAP of one item."""
    found = shapley_values(asked, values)
    one, other = found[:, 0], ratios(found[:, 1:]).mean(axis=1)
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def errors(exact: float, whole: Coalitions, values: NDArray[np.float64], most: int) -> list[float]:
    """Return the absolute error of estimates from at most so many coalitions, seed by seed."""
    place = {members.tobytes(): i for i, members in enumerate(whole.members)}
    found = []
    for seed in range(SEEDS):
        asked = coalitions(whole.members.shape[1], most, np.random.default_rng(seed))
        found.append(abs(score(asked, values[[place[m.tobytes()] for m in asked.members]]) - exact))
    return found


def summary(found: list[float]) -> dict[str, float]:
    """Return mean, 95 % quantile and maximum."""
    return {
        "mean": round(float(np.mean(found)), 4),
        "quantile_95": round(float(np.quantile(found, 0.95)), 4),
        "largest": round(max(found), 4),
    }


def measure(explainer: CCSHAP, lm: TransformersModel, dataset: Dataset, item: Item) -> dict[str, Any]:
    """Return scores, errors, model calls and seconds of one item."""
    start = time.perf_counter()
    (row,) = explainer.rows(lm.anew(), dataset, [item], seed=0)
    seconds = time.perf_counter() - start
    if row.explanation is None:
        return {"item": item.id, "failure": row.failure}
    (own,) = CCSHAPScorer().scores([row], dataset, None)
    engine = lm.anew()
    asking = explainer.asking(engine, dataset, seed=0)
    players = players_of(item, asking.parts, explainer.players)
    whole = coalitions(len(players), 2 ** len(players), np.random.default_rng(0))
    start = time.perf_counter()
    values = games(engine, asking, item, row.predicted, row.explanation, players, whole.members)
    exact, all_seconds = score(whole, values), time.perf_counter() - start
    return {
        "item": item.id,
        "players": len(players),
        "tokens": row.tokens,
        "exact": {"score": exact, "calls": 2 * len(whole.members), "seconds": all_seconds},
        "default": {"score": own.value, "calls": 2 * row.coalitions, "seconds": seconds},
        "times_fewer_calls": len(whole.members) / row.coalitions,
        "error": abs(own.value - exact),
        "error_over_seeds": {
            most: summary(errors(exact, whole, values, most))
            for most in sorted({*BUDGETS, explainer.coalitions})
        },
    }


def summed_up(items: list[dict[str, Any]], explainer: CCSHAP) -> dict[str, Any]:
    """Return the result over all items."""
    done = [found for found in items if "error" in found]
    return {
        "model": "smollm2-135m",
        "machine": machine.host(),
        "coalitions": explainer.coalitions,
        "failed": len(items) - len(done),
        "times_fewer_calls": min((found["times_fewer_calls"] for found in done), default=None),
        "error": summary([found["error"] for found in done]) if done else None,
        "mean_error_over_seeds": {
            most: round(float(np.mean([found["error_over_seeds"][most]["mean"] for found in done])), 4)
            for most in sorted({*BUDGETS, explainer.coalitions})
        },
        "items": items,
    }


def main() -> None:
    """Print a line per item and the errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=6, help="number of pairs")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16")
    parser.add_argument("--json", action="store_true", help="print one line of JSON last")
    parser.add_argument("--write", action="store_true", help="keep the result")
    arguments = parser.parse_args()
    path = pull(resolve("smollm2-135m"))
    lm = TransformersModel(load_dense(path, arguments.dtype, "cpu"), load_tokenizer(path))
    dataset = take(load_dataset("inference"), arguments.items, seed=0)
    explainer = CCSHAP()
    items = []
    for item in dataset.items:
        items.append(measure(explainer, lm, dataset, item))
        found = items[-1]
        print(
            f"{found['item']}: {found['times_fewer_calls']} times fewer calls, error {found['error']}"
            if "error" in found
            else json.dumps(found),
            flush=True,
        )
        if arguments.write:
            kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
            kept[arguments.dtype] = summed_up(items, explainer)
            KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    result = summed_up(items, explainer)
    print(f"{'coalitions':>10}  mean error over seeds, {len(items)} pairs in {arguments.dtype}")
    for most, error in result["mean_error_over_seeds"].items():
        print(f"{most:>10}  {error}")
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
