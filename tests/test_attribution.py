"""Attribution beside a slow float64 oracle, with planted neurons, within its memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from conftest import benchmark  # noqa: E402
from oracles import attribution as oracle  # noqa: E402
from tiny import fact_sentence, learned_facts  # noqa: E402
from torch.multiprocessing.reductions import StorageWeakRef  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from explainers.added_directions import AddedDirections  # noqa: E402
from explainers.attribution import Attribution, _Batch, _facts_at_once, attribute  # noqa: E402
from explainers.neuron_attribution import NeuronAttribution  # noqa: E402
from explainers.query_neurons import _batches, _size, query_neurons  # noqa: E402
from quantxai.checkpoints import load_dense, load_tokenizer  # noqa: E402
from quantxai.engine import TransformersModel  # noqa: E402
from quantxai.internals import Trace  # noqa: E402
from quantxai.readout import Readout  # noqa: E402

LAYERS, HIDDEN, FFN, HEADS, WIDTH, VOCABULARY = 3, 12, 20, 2, 5, 70
KINDS: dict[str, dict[str, Any]] = {
    "rms": {},
    "layer-norm": {"centred": True, "shift": True, "eps": 1e-3},
    "biased": {"bias": True, "multiplier": 0.5},
    "capped": {"softcap": 3.0, "bias": True, "multiplier": 2.0},
}
"""Last steps of language models."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def random_model(seed: int = 0, size: float = 1.0, dtype: Any = None, **options: Any) -> Any:
    """Internals of random numbers; `size` is that of what neurons write."""
    dtype = dtype or torch.float64
    draw = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> Any:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)

    hidden, vocabulary = options.pop("hidden", HIDDEN), options.pop("vocabulary", VOCABULARY)
    layers, ffn = options.pop("layers", LAYERS), options.pop("ffn", FFN)
    heads, width = options.pop("heads", HEADS), options.pop("width", WIDTH)
    vectors = {"shift": hidden, "bias": vocabulary}
    options = {k: numbers(vectors[k]) if k in vectors else v for k, v in options.items()}
    readout = Readout(gain=1 + numbers(hidden) / 5, unembedding=numbers(vocabulary, hidden), **options)
    outputs = [size * numbers(hidden, ffn) for _ in range(layers)]
    attentions = [numbers(hidden, heads * width) for _ in range(layers)]
    return SimpleNamespace(
        readout=readout,
        layers=layers,
        hidden=hidden,
        ffn_width=ffn,
        heads=heads,
        head_width=width,
        ffn_output=lambda layer: outputs[layer],
        attention_output=lambda layer: attentions[layer],
        numbers=numbers,
    )


def random_traces(model: Any, number: int) -> tuple[list[Trace], list[int]]:
    """Facts of random numbers, their parts unrelated."""
    n, layers = model.numbers, model.layers
    traces = [
        Trace(
            tokens=(1, 2),
            position=1,
            residuals=n(layers + 1, model.hidden),
            attention=n(layers, model.hidden),
            ffn=n(layers, model.hidden),
            heads=n(layers, model.heads * model.head_width),
            neurons=n(layers, model.ffn_width),
            attention_scale=1 + n(layers).abs(),
            ffn_scale=1 + n(layers).abs(),
        )
        for _ in range(number)
    ]
    # Two facts share a token.
    return traces, [(7 * max(i, 1)) % model.readout.vocabulary for i in range(number)]


def scores(found: Attribution) -> dict[tuple[int, int], float]:
    places = zip(found.layers.tolist(), found.neurons.tolist(), strict=True)
    return dict(zip(places, found.scores.tolist(), strict=True))


def check(model: Any, trace: Trace, token: int, found: Attribution, tolerance: float, number: int) -> None:
    """Compare one fact with the oracle: the `number` best neurons, and all sublayers and heads."""
    want = oracle.neuron_scores(model, trace, token)
    close = {"rel": tolerance, "abs": tolerance / 1000}
    best = sorted(want.values(), reverse=True)[:number]
    assert found.scores.tolist() == pytest.approx(best, **close)
    assert scores(found) == pytest.approx({place: want[place] for place in scores(found)}, **close)
    want_parts = oracle.sublayer_scores(model, trace, token)
    assert found.ffn.tolist() == pytest.approx(want_parts["ffn"], **close)
    assert found.attention.tolist() == pytest.approx(want_parts["attention"], **close)
    for heads, want_heads in zip(found.heads.tolist(), want_parts["heads"], strict=True):
        assert heads == pytest.approx(want_heads, **close)
    s = oracle.scale(model.readout, trace.residuals[-1])
    logprob = float(oracle.log_prob(model.readout, trace.residuals[-1], s, token))
    assert found.logprob == pytest.approx(logprob, **close)


# -- beside the oracle ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["exact", "fast"])
@pytest.mark.parametrize("size", [0.02, 1.0, 30.0])
@pytest.mark.parametrize("kind", KINDS)
def test_random_models(kind: str, size: float, mode: Any) -> None:
    model = random_model(size=size, **KINDS[kind])
    traces, tokens = random_traces(model, 3)
    number = LAYERS * FFN
    found = attribute(model, traces, tokens, mode=mode, kept=number, survivors=number, memory=2**20)
    for trace, token, one in zip(traces, tokens, found, strict=True):
        check(model, trace, token, one, 1e-6, number)
        assert one.certain == number


def engine(path: Path, dtype: str) -> TransformersModel:
    return TransformersModel(load_dense(path, dtype, "cpu"), load_tokenizer(path))


def asked(internals: Any, number: int) -> tuple[list[str], list[int]]:
    """Prompts of facts that the tiny model has learned, and the first tokens of their objects."""
    facts = learned_facts()[:number]
    prompts = [fact_sentence(f).removesuffix(f" {f.label}.") for f in facts]
    return prompts, [internals.tokenizer(f" {f.label}", add_special_tokens=False).input_ids[0] for f in facts]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-6), ("bfloat16", 1e-3)])
def test_the_trained_model(tiny_path: Path, dtype: str, tolerance: float) -> None:
    with torch.inference_mode():
        internals = engine(tiny_path, dtype).internals()
        prompts, tokens = asked(internals, 2)
        traces = internals.trace(prompts)
        for mode in ("exact", "fast"):
            found = attribute(internals, traces, tokens, mode=mode, kept=30, survivors=60)
            for trace, token, one in zip(traces, tokens, found, strict=True):
                check(internals, trace, token, one, tolerance, 30)


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_a_planted_neuron_is_found_first(tiny_path: Path, mode: Any) -> None:
    with torch.inference_mode():
        lm = engine(tiny_path, "float32")
        internals = lm.internals()
        prompts, tokens = asked(internals, 2)
        traces = internals.trace(prompts)
        before = attribute(internals, traces, tokens, mode=mode, kept=20, survivors=20)
        # A neuron that fires for the first fact, and is none of its best.
        best = {k for layer, k in scores(before[0]) if layer == 1}
        fires = sorted(range(internals.ffn_width), key=lambda k: -abs(float(traces[0].neurons[1, k])))
        planted = next(k for k in fires if k not in best)
        sign = float(traces[0].neurons[1, planted].sign())
        weight = lm.model.model.layers[1].mlp.down_proj.weight
        weight[:, planted] = 100 * sign * internals.readout.rows(tokens[0], tokens[0] + 1)[0]
        (found,) = attribute(
            internals, internals.trace(prompts[:1]), tokens[:1], mode=mode, kept=5, survivors=5
        )
    assert (int(found.layers[0]), int(found.neurons[0])) == (1, planted)
    assert found.scores[0] > before[0].scores[0]


# -- the screen ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "capped"])
def test_no_score_is_above_its_first_order_score_and_what_is_certain_is_true(kind: str) -> None:
    model = random_model(seed=3, size=0.3, **KINDS[kind])
    traces, tokens = random_traces(model, 4)
    number = LAYERS * FFN
    exact = attribute(model, traces, tokens, mode="exact", kept=number)
    fast = attribute(model, traces, tokens, mode="fast", kept=20, survivors=20)
    for fact, (one, other) in enumerate(zip(exact, fast, strict=True)):
        assert 0 < other.certain <= 20
        places = list(scores(one))
        assert list(scores(other))[: other.certain] == places[: other.certain]
        # A fact's gradient by finite differences, from the oracle alone.
        trace, token = traces[fact], tokens[fact]
        for layer, neuron in places:
            before = trace.residuals[layer] + trace.attention[layer]
            step = 1e-6 * trace.neurons[layer, neuron] / trace.ffn_scale[layer]
            vector = step * model.ffn_output(layer)[:, neuron]
            slope = oracle.change(model.readout, trace, before, vector, token) / 1e-6
            assert scores(one)[layer, neuron] <= slope + 1e-6


def test_survivors_are_those_with_the_largest_slopes() -> None:
    model = random_model(seed=4, size=1e-5)  # so small that first order is all there is
    traces, tokens = random_traces(model, 3)
    exact = attribute(model, traces, tokens, mode="exact", kept=10)
    fast = attribute(model, traces, tokens, mode="fast", kept=10, survivors=10)
    for one, other in zip(exact, fast, strict=True):
        assert list(scores(other)) == list(scores(one))
        assert other.scores.tolist() == pytest.approx(one.scores.tolist(), rel=1e-9)
        assert other.certain >= 9


def test_with_a_cap_the_fast_way_is_the_exact_one() -> None:
    model = random_model(**KINDS["capped"])
    traces, tokens = random_traces(model, 3)
    fast = attribute(model, traces, tokens, mode="fast", kept=5, survivors=5)
    for trace, token, one in zip(traces, tokens, fast, strict=True):
        check(model, trace, token, one, 1e-6, 5)
        assert (one.mode, one.certain) == ("exact", 5)
    uncapped = random_model()
    for mode in ("exact", "fast"):
        (one,) = attribute(uncapped, traces[:1], tokens[:1], mode=mode, kept=5, survivors=5)
        assert one.mode == mode


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e-9), (torch.float64, 1e-17)])
def test_what_rounding_may_decide_is_not_certain(dtype: Any, size: float) -> None:
    model = random_model(size=size, dtype=dtype)
    traces, tokens = random_traces(model, 4)
    found = attribute(model, traces, tokens, mode="fast", kept=10, survivors=10)
    assert [one.certain for one in found] == [0] * 4


@pytest.mark.parametrize("size", [1e-3, 0.02, 0.5, 5.0])
def test_moments_are_as_near_as_they_say(size: float) -> None:
    model = random_model(seed=5, size=size)
    traces, tokens = random_traces(model, 4)
    adding = AddedDirections(model.readout, 2**20)
    residuals = torch.stack([t.residuals[0] for t in traces])
    facts = adding.facts(residuals, model.readout.scale(residuals), torch.tensor(tokens))
    factors = torch.stack([t.neurons[0] for t in traces])
    every = torch.ones_like(factors, dtype=torch.bool)
    exact = adding.directly(facts, model.ffn_output(0), factors, every)
    scored, errors = adding.by_moments(facts, model.ffn_output(0), factors)
    off = (scored - exact).abs()
    near = errors < 1  # where they are not, scores may be no numbers at all
    assert (off <= errors + 1e-14)[near].all()
    assert near.all() if size <= 0.02 else not near.all()
    found = adding._moments(facts, model.ffn_output(0))[1]
    want = (model.readout.rows(0, VOCABULARY) @ model.ffn_output(0)).abs().amax(0)
    torch.testing.assert_close(found, want)
    # The bound is no idle one: real errors come within a factor of a thousand of the typical one.
    if size == 0.02:
        assert (off > errors / 1000).double().mean() > 0.5


# -- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["exact", "fast"])
@pytest.mark.parametrize("kind", KINDS)
def test_neither_batches_nor_memory_change_anything(kind: str, mode: Any) -> None:
    model = random_model(size=0.3, **KINDS[kind])
    traces, tokens = random_traces(model, 5)
    options: dict[str, Any] = {"mode": mode, "kept": 15, "survivors": 15}
    together = attribute(model, traces, tokens, **options)
    tight = attribute(model, traces, tokens, memory=2**14, **options)
    alone = [attribute(model, [t], [w], **options)[0] for t, w in zip(traces, tokens, strict=True)]
    for one, others in zip(together, zip(tight, alone, strict=True), strict=True):
        for other in others:
            assert scores(other) == pytest.approx(scores(one), rel=1e-9, abs=1e-12)
            assert other.certain == one.certain
            for name in ("ffn", "attention", "heads"):
                torch.testing.assert_close(getattr(other, name), getattr(one, name))


def test_no_facts_and_too_few_survivors() -> None:
    model = random_model()
    assert attribute(model, [], []) == []
    traces, tokens = random_traces(model, 1)
    with pytest.raises(ValueError, match="kept = 600 of survivors = 30 neurons: raise survivors"):
        attribute(model, traces, tokens, survivors=30)
    (found,) = attribute(model, traces, tokens)
    assert len(found.scores) == LAYERS * FFN, "no more than there are"


# -- query neurons -------------------------------------------------------------------------------


def with_paths(model: Any, tokens: int) -> Any:
    """Random numbers for what `paths` and `value_matrix` tell."""
    n, layers = model.numbers, model.layers
    values = [n(HEADS * WIDTH, model.hidden) for _ in range(layers)]
    model.value_matrix = lambda layer: values[layer]
    model.tokens = lambda prompt: [1] * tokens
    held = {
        prompt: SimpleNamespace(
            tokens=(1,) * tokens,
            residuals=n(layers + 1, tokens, model.hidden),
            neurons=n(layers, tokens, model.ffn_width),
            ffn_scale=1 + n(layers, tokens).abs(),
            attention_weights=n(layers, HEADS, tokens).softmax(-1),
            input_scale=1 + n(layers, tokens).abs(),
        )
        for prompt in "abc"
    }
    model.paths = held.__getitem__
    return model


@pytest.mark.parametrize("memory", [2**12, 2**20])
@pytest.mark.parametrize("kind", KINDS)
def test_query_neurons_of_random_models(kind: str, memory: int) -> None:
    model = with_paths(random_model(seed=6, **KINDS[kind]), 3)
    traces, tokens = random_traces(model, 3)
    found = attribute(model, traces, tokens, mode="exact")
    found = query_neurons(model, "abc", traces, tokens, found, heads=3, kept=12, memory=memory)
    for prompt, trace, token, one in zip("abc", traces, tokens, found, strict=True):
        want = oracle.query_scores(model, model.paths(prompt), trace, token, 3)
        best = sorted(want.values(), reverse=True)[:12]
        assert one.query_scores.tolist() == pytest.approx(best, rel=1e-6)
        places = zip(one.query_layers.tolist(), one.query_neurons.tolist(), strict=True)
        assert [want[place] for place in places] == pytest.approx(best, rel=1e-6)


def test_a_layers_matrices_are_made_once_for_all_facts() -> None:
    model = with_paths(random_model(), 3)
    traces, tokens = random_traces(model, 3)
    found = attribute(model, traces, tokens, mode="exact")
    made: list[tuple[str, int]] = []
    for name in ("attention_output", "value_matrix"):
        make = getattr(model, name)
        setattr(model, name, lambda layer, n=name, make=make: (made.append((n, layer)), make(layer))[1])
    query_neurons(model, "abc", traces, tokens, found, heads=LAYERS * HEADS)
    assert len(made) == len(set(made)) > 0


def test_query_neurons_of_the_trained_model(tiny_path: Path) -> None:
    with torch.inference_mode(False), torch.no_grad():
        internals = engine(tiny_path, "float64").internals()
        prompts, tokens = asked(internals, 2)
        traces = internals.trace(prompts)
        found = attribute(internals, traces, tokens, kept=5, survivors=5)
        found = query_neurons(internals, prompts, traces, tokens, found, heads=2, kept=40)
        for prompt, trace, token, one in zip(prompts, traces, tokens, found, strict=True):
            want = oracle.query_scores(internals, internals.paths(prompt), trace, token, 2)
            best = sorted(want.values(), reverse=True)[:40]
            assert one.query_scores.tolist() == pytest.approx(best, rel=1e-6, abs=1e-12)


def test_a_fact_that_no_head_raises_has_no_query_neurons() -> None:
    model = with_paths(random_model(), 3)
    traces, tokens = random_traces(model, 1)
    (found,) = attribute(model, traces, tokens)
    lowered = replace(found, heads=-found.heads.abs())
    (none,) = query_neurons(model, "a", traces, tokens, [lowered])
    assert (len(none.query_layers), len(none.query_neurons), len(none.query_scores)) == (0, 0, 0)


# -- working memory ------------------------------------------------------------------------------


class Live(TorchDispatchMode):  # type: ignore[misc]
    """Adds up the storages that operations made and that are alive.

    What an operation takes for itself while it runs is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[Any, int]] = {}
        self.total = 0  # of `alive`, in which some may have ended
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if torch.is_tensor(tensor) and tensor.untyped_storage()._cdata not in given:
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
                self.total += storage.nbytes()
        if self.total > self.most:
            self.alive = {k: v for k, v in self.alive.items() if not v[0].expired()}
            self.total = sum(size for _, size in self.alive.values())
            self.most = max(self.most, self.total)
        return out


@pytest.mark.parametrize(("mode", "vocabulary"), [("fast", 128_000), ("exact", 6_000)])
def test_a_wide_layer_and_a_large_vocabulary_stay_within_the_memory(mode: Any, vocabulary: int) -> None:
    model = random_model(
        dtype=torch.float32, size=0.01, hidden=8, layers=1, ffn=28_672, vocabulary=vocabulary
    )
    traces, tokens = random_traces(model, 2)
    # All logits of one layer would be 14 GB.
    memory = 2**24
    with Live() as live, torch.inference_mode():
        attribute(model, traces, tokens, mode=mode, survivors=40, kept=40, memory=memory)
    assert memory // 16 < live.most < memory


@pytest.mark.parametrize("layers", [80, 4])
def test_many_layers_and_heads_stay_within_the_memory(layers: int) -> None:
    """Layers and heads of a 70-billion-parameter model, its widths divided by 32 (its vocabulary by more)."""
    model = random_model(
        dtype=torch.float32, size=0.01, layers=layers, heads=64, hidden=256, width=4, ffn=896, vocabulary=100
    )
    memory = 2**22
    adding = AddedDirections(model.readout, 2**20)
    number = _facts_at_once(model, adding, memory)
    traces, tokens = random_traces(model, number)
    with Live() as live, torch.inference_mode():
        _Batch(model, adding, traces, tokens)._sublayers()
    assert number > 3
    assert memory // 2 < live.most < memory


def test_prompts_that_are_followed_together_stay_within_the_memory() -> None:
    model = with_paths(random_model(ffn=200), 30)
    kept = model.paths("a")

    def paths(prompt: str) -> Any:
        """As a model's: noted layer by layer, then stacked."""
        noted = {k: [t.clone() for t in v] for k, v in vars(kept).items() if k != "tokens"}
        return SimpleNamespace(**{k: torch.stack(v) for k, v in noted.items()})

    memory = 2**20
    batches = list(_batches(model, "abcdefghij", memory))
    assert "".join(p for batch in batches for p in batch) == "abcdefghij"
    assert len(batches[0]) > 2
    for batch in batches:
        with Live() as live:
            held = [paths(prompt) for prompt in batch]
        assert len(held) == len(batch)
        assert live.most <= memory


def test_what_a_prompt_holds_is_counted_right(tiny_path: Path) -> None:
    with torch.inference_mode():
        internals = engine(tiny_path, "float32").internals()
        prompts, _ = asked(internals, 1)
        paths = internals.paths(prompts[0])
    held = sum(t.nbytes for t in vars(paths).values() if torch.is_tensor(t))
    assert _size(internals, len(paths.tokens)) == held


def test_facts_that_are_traced_together_stay_within_the_memory() -> None:
    """A trace is there twice while it is made, and so is what enters the blocks' own norms."""
    model = random_model(dtype=torch.float32, layers=10, ffn=200)
    (trace,), _ = random_traces(model, 1)
    held = 2 * (sum(t.nbytes for t in vars(trace).values() if torch.is_tensor(t)) + 2 * trace.ffn.nbytes)
    method = NeuronAttribution(memory=2**20)
    number = method._together(model)
    assert method.memory // 4 < number * held <= method.memory // 2


def test_blocks_of_a_70b_model_stay_within_the_memory() -> None:
    """The real sizes, on the meta device: shapes alone, which is as far as nothing depends on values."""
    memory = 2**30
    bare = Readout(
        gain=torch.empty(8192, device="meta"),
        unembedding=torch.empty(128_256, 8192, dtype=torch.bfloat16, device="meta"),
    )
    with Live() as live:
        adding = AddedDirections(bare, memory)
        points = torch.empty(20, 8192, device="meta")
        totals, _ = adding._log_totals(points, gradient=True)
        facts: Any = SimpleNamespace(points=points, log_totals=totals)
        adding._moments(facts, torch.empty(8192, 28_672, device="meta"))
    given = 4 * 8192 * (28_672 + 20)
    assert memory // 8 < live.most - given < memory


def test_a_readout_that_does_not_fit_is_read_anew() -> None:
    model = random_model()
    whole = VOCABULARY * HIDDEN * 8
    assert AddedDirections(model.readout, 2 * whole)._kept is not None
    assert AddedDirections(model.readout, 2 * whole - 1)._kept is None
    assert replace(model.readout).vocabulary == VOCABULARY


# -- what was measured ---------------------------------------------------------------------------


def test_the_documented_times_are_those_that_were_measured_and_good_enough() -> None:
    module = benchmark("attribution")
    kept, page = json.loads(module.KEPT.read_text()), module.PAGE.read_text(encoding="utf-8")
    assert page == module.with_table(page, "attribution", module.table(kept))
    assert kept["exact_difference"] < 1e-4
    assert kept["fast_difference"] < 1e-4
    assert kept["least_top300_overlap"] >= 0.99
    # CPU seconds: clocks run on where other programs take their turn.
    assert kept["exact_cpu_speedup"] >= 3
    assert kept["fast_cpu_speedup"] >= 50
