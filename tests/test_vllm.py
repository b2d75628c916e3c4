"""The vLLM engine against the transformers engine, on a stand-in that answers in vLLM's result shapes.

vLLM itself needs a GPU. The stand-in takes what vLLM's documentation names, and nothing else, and
computes with plain transformers: one sequence at a time, without a cache.
"""

from __future__ import annotations

import importlib.machinery
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tiny  # noqa: E402

from quantxai import conditions, machine  # noqa: E402
from quantxai.checkpoints import load_dense, load_tokenizer  # noqa: E402
from quantxai.conditions import NotComparable  # noqa: E402
from quantxai.config import parse_config  # noqa: E402
from quantxai.engine import TransformersModel  # noqa: E402
from quantxai.errors import ConfigError, InputError, MissingExtra, ModelError  # noqa: E402
from quantxai.jobs import RunVariant, open_lm  # noqa: E402
from quantxai.lm import Dialogue, Generation  # noqa: E402
from quantxai.plan import Plan, make_plan  # noqa: E402
from quantxai.run import Silent, _Sweep  # noqa: E402
from quantxai.store import Store  # noqa: E402
from quantxai.variants import check_packages  # noqa: E402
from quantxai.vllm_engine import VllmModel  # noqa: E402

NEWS = [item.text[: 30 + 15 * i] for i, item in enumerate(tiny.load_dataset("news").items[:4])]
FACTS = [i.fields["template"].replace("{}", i.text) for i in tiny.learned_facts()]
PROMPTS = [*FACTS[:5], *NEWS]
VERSION = "0.11.2"


@dataclass
class SamplingParams:
    """The parameters in use, with vLLM's defaults."""

    temperature: float = 1.0
    seed: int | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = 16
    logprobs: int | None = None
    prompt_logprobs: int | None = None


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class LLM:
    """vLLM's offline class; a fixed generator stands for its own way of drawing."""

    model: str
    tokenizer: str
    dtype: str
    seed: int
    asked: list[tuple[dict[str, list[int]], SamplingParams]] = field(default_factory=list)
    resets: int = 0

    def __post_init__(self) -> None:
        self._model = load_dense(Path(self.model), self.dtype, "cpu")
        self._tokenizer = load_tokenizer(Path(self.tokenizer))

    def reset_prefix_cache(self) -> bool:
        self.resets += 1
        return True

    def generate(
        self, prompts: list[Any], sampling_params: list[SamplingParams], *, use_tqdm: bool
    ) -> list[Any]:
        assert len(prompts) == len(sampling_params) > 0
        assert not use_tqdm
        self.asked += zip(prompts, sampling_params, strict=True)
        return [self._answer(p["prompt_token_ids"], s) for p, s in zip(prompts, sampling_params, strict=True)]

    def _distributions(self, ids: list[int]) -> Any:
        with torch.inference_mode():
            return self._model(torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)

    def _answer(self, prompt: list[int], how: SamplingParams) -> Any:
        made, text, finish, reason = list[int](), "", "length", None
        draw = np.random.default_rng(how.seed)
        for _ in range(how.max_tokens or 0):
            row = self._distributions(prompt + made)[-1]
            noise = draw.gumbel(size=len(row)) if how.temperature else 0.0
            made.append(int(np.argmax(row.numpy() / (how.temperature or 1.0) + noise)))
            # Like vLLM's engine: the limit is checked before the end token, which stays in the ids.
            if len(made) < how.max_tokens and made[-1] == self._tokenizer.eos_token_id:
                finish = "stop"
                break
            text = self._tokenizer.decode(made, skip_special_tokens=True)
            found = next((s for s in how.stop or [] if s in text), None)
            if found is not None:
                text, finish, reason = text[: text.index(found)], "stop", found
                break
        return SimpleNamespace(
            prompt_token_ids=prompt,
            prompt_logprobs=None if how.prompt_logprobs is None else self._prompt_logprobs(prompt),
            outputs=[
                SimpleNamespace(text=text, token_ids=tuple(made), finish_reason=finish, stop_reason=reason)
            ],
        )

    def _prompt_logprobs(self, ids: list[int]) -> list[dict[int, Logprob] | None]:
        rows = self._distributions(ids)[:-1]
        found = [
            {token: Logprob(row[token].item(), int((row >= row[token]).sum()), "?")}
            for row, token in zip(rows, ids[1:], strict=True)
        ]
        return [None, *found]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vllm")
    module.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    known = machine.versions
    monkeypatch.setattr(machine, "versions", lambda: {**known(), "vllm": VERSION})


@pytest.fixture(scope="module")
def reference(tiny_path: Path) -> TransformersModel:
    torch.set_num_threads(1)
    return TransformersModel(load_dense(tiny_path, "float32", "cpu"), load_tokenizer(tiny_path))


@pytest.fixture
def lm(stand_in: None, tiny_path: Path) -> VllmModel:
    return VllmModel(tiny_path, load_tokenizer(tiny_path), tiny_path, context=tiny.CONTEXT, dtype="float32")


def engine_of(lm: VllmModel) -> LLM:
    found: LLM = lm._llm
    return found


# The text-only half


@pytest.mark.parametrize("stop", [(), (".",), ("Pre", "e", " The")])
@pytest.mark.parametrize("limit", [1, 2, 10])
def test_texts_equal_those_of_the_transformers_engine(
    lm: VllmModel, reference: TransformersModel, stop: tuple[str, ...], limit: int
) -> None:
    expected = reference.generate(PROMPTS, max_new_tokens=limit, stop=stop)

    assert lm.generate(PROMPTS, max_new_tokens=limit, stop=stop) == expected


def test_scores_equal_those_of_the_transformers_engine(lm: VllmModel, reference: TransformersModel) -> None:
    prompts = [*PROMPTS, "", "The", ""]
    continuations = [*[" Paris.", " cold", " the last of many"] * 3, "The capital city", "", "The"]
    expected = reference.logprobs(prompts, continuations)

    found = lm.logprobs(prompts, continuations)

    assert [len(f.logprobs) for f in found][-3:] == [len(expected[-3].logprobs), 0, 0]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)
        assert one.ranks == other.ranks


def test_choices_equal_those_of_the_transformers_engine(lm: VllmModel, reference: TransformersModel) -> None:
    labels = [" world", " sports", " business"]

    found = lm.choices(PROMPTS, labels)

    assert found.dtype == np.float64
    np.testing.assert_allclose(found, reference.choices(PROMPTS, labels), atol=1e-4)


def test_generating_and_scoring_at_once_is_both(lm: VllmModel, reference: TransformersModel) -> None:
    found = lm.generate_and_score(PROMPTS, [" Paris."] * len(PROMPTS), max_new_tokens=5)
    expected = reference.generate_and_score(PROMPTS, [" Paris."] * len(PROMPTS), max_new_tokens=5)

    assert [g for g, _ in found] == [g for g, _ in expected]
    assert [c.ranks for _, c in found] == [c.ranks for _, c in expected]


def test_each_prompt_is_drawn_with_its_own_seed(lm: VllmModel) -> None:
    seeds = [3, 1, 4]
    found = lm.generate(NEWS[:3], max_new_tokens=6, temperature=0.9, seeds=seeds)

    assert [(p.temperature, p.seed) for _, p in engine_of(lm).asked] == [(0.9, s) for s in seeds]
    assert lm.generate(NEWS[2:3], max_new_tokens=6, temperature=0.9, seeds=[4]) == found[2:]
    lm.generate(NEWS[:1], max_new_tokens=2, seeds=[7])
    assert (engine_of(lm).asked[-1][1].temperature, engine_of(lm).asked[-1][1].seed) == (0.0, None)
    with pytest.raises(InputError, match="0 seeds for 3 prompts"):
        lm.generate(NEWS[:3], max_new_tokens=6, temperature=0.9)


def test_nothing_asked_gives_nothing(lm: VllmModel) -> None:
    assert lm.generate([], max_new_tokens=3) == []
    assert lm.logprobs([], []) == []
    assert lm.choices([], [" a", " b"]).shape == (0, 2)
    assert engine_of(lm).asked == []


def test_what_cannot_be_is_refused_before_vllm_is_asked(lm: VllmModel) -> None:
    long = " ".join(NEWS * 20)
    with pytest.raises(InputError, match="longer than the model's context"):
        lm.generate([long], max_new_tokens=tiny.CONTEXT)
    with pytest.raises(InputError, match="longer than the model's context"):
        lm.choices([long * 4], [" a", " b"])
    with pytest.raises(InputError, match="max_new_tokens"):
        lm.generate(["The"], max_new_tokens=0)
    with pytest.raises(InputError, match="do not all begin with different tokens"):
        lm.choices(["Topic:"], [" business", " business news"])
    assert engine_of(lm).asked == []


@pytest.mark.parametrize(
    ("ids", "finish", "reason", "expected"),
    [
        ((5, 6), "stop", 6, Generation("text", 1, "end")),  # a second end token is told by its number
        ((5, 0), "length", None, Generation("text", 1, "end")),  # the end token was the last one allowed
        ((5, 6), "length", None, Generation("text", 2, "length")),
        ((5, 7), "length", None, Generation("text", 1, "end")),  # of several end tokens, too
    ],
)
def test_how_a_text_ended_is_read_from_the_reasons(
    lm: VllmModel, ids: tuple[int, ...], finish: str, reason: Any, expected: Generation
) -> None:
    assert lm.tokenizer.eos_token_id == 0
    lm._end_ids = frozenset({0, 7})
    output = SimpleNamespace(text="text", token_ids=ids, finish_reason=finish, stop_reason=reason)

    assert lm._generation(output, ()) == expected


def test_the_first_stop_string_in_the_text_ends_it(lm: VllmModel) -> None:
    output = SimpleNamespace(text="a\n</edit>", token_ids=(5,), finish_reason="stop", stop_reason="</x>")

    assert lm._generation(output, ("</x>", "\n")).text == "a"


def test_a_text_that_vllm_gave_up_is_an_error(lm: VllmModel) -> None:
    output = SimpleNamespace(text="", token_ids=(), finish_reason="abort", stop_reason=None)

    with pytest.raises(ModelError, match="for the reason 'abort'"):
        lm._generation(output, ())


def test_anew_forgets_what_vllm_kept(lm: VllmModel) -> None:
    assert lm.anew()._llm is lm._llm
    assert engine_of(lm).resets == 1


def test_dialogues_are_written_as_for_the_other_engine(lm: VllmModel, reference: TransformersModel) -> None:
    dialogue = Dialogue("Why?", "Because", instruction="Be short.")

    assert lm.prompt(dialogue) == reference.prompt(dialogue)


# In a sweep


def plan_of(directory: Path, /, **tables: Any) -> Plan:
    return make_plan(
        parse_config(
            {
                "engine": "vllm",
                "model": {"name": str(directory), "dtype": "float32", "device": "cpu"},
                "variants": [{"quantizer": "full"}, {"quantizer": "rtn", "bits": 4, "group_size": 32}],
                "explainers": [{"explainer": "memorization", "dataset": "relations", "n": 18}],
                **tables,
            }
        )
    )


def test_a_sweep_runs_its_variants_with_vllm_and_says_so(
    stand_in: None, tiny_path: Path, tmp_path: Path
) -> None:
    told: dict[str, dict[str, Any]] = {}
    for engine in ("vllm", "transformers"):
        plan, run = plan_of(tiny_path, engine=engine), tmp_path / engine
        cells = [c for c in plan.rows if c.variant is plan.parent]
        RunVariant("full", 1, plan.parent, tiny_path, run, cells, 4096, 0, True)(lambda *_: None)
        told[engine] = Store(run).meta(cells[0].key)["conditions"]

    assert told["vllm"]["engine"] == f"vllm {VERSION}, torch {machine.versions()['torch']}"
    assert told["transformers"]["engine"].startswith("transformers ")
    with pytest.raises(NotComparable, match=rf"engine: full: transformers .*; rtn-4: vllm {VERSION}"):
        conditions.check([("full", told["transformers"]), ("rtn-4", told["vllm"])], "full")


def test_a_sweep_by_vllm_is_gone_on_with_under_the_same_conditions(
    stand_in: None, tiny_path: Path, tmp_path: Path
) -> None:
    plan, store = plan_of(tiny_path), Store(tmp_path)
    cells = [c for c in plan.rows if c.variant is plan.parent]
    store.write_manifest(plan.manifest(["sweep"]))
    RunVariant("full", 1, plan.parent, tiny_path, tmp_path, cells, 4096, 0, True)(lambda *_: None)

    _Sweep(plan, store, Silent(), False)._check_conditions()
    with pytest.raises(NotComparable, match="engine"):
        _Sweep(plan_of(tiny_path, engine="transformers"), store, Silent(), False)._check_conditions()


def test_another_engine_is_another_cell(tiny_path: Path) -> None:
    ours, theirs = plan_of(tiny_path, engine="transformers"), plan_of(tiny_path)

    assert not {c.key.digest for c in ours.cells} & {c.key.digest for c in theirs.cells}
    assert [v.receipt for v in ours.variants] == [v.receipt for v in theirs.variants]


def test_a_dequantized_variant_is_run_from_its_twin(
    stand_in: None, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantxai.preparation import prepare

    rounded = plan_of(tiny_path).variants[1]
    assert rounded.execution == "dequantized"
    prepare(rounded, tiny_path, lambda _: None)

    found = open_lm(rounded, tiny_path, 4096)

    assert isinstance(found, VllmModel)
    assert engine_of(found).model == str(rounded.twin)
    assert engine_of(found).tokenizer == str(tiny_path)
    assert found.context == tiny.CONTEXT
    twin = open_lm(replace(rounded, engine="transformers"), tiny_path, 4096)
    assert found.generate(PROMPTS, max_new_tokens=6) == twin.generate(PROMPTS, max_new_tokens=6)


def test_what_quantizes_when_it_loads_is_refused_at_planning(tiny_path: Path) -> None:
    bnb = {"quantizer": "bnb", "format": "nf4"}
    with pytest.raises(ConfigError, match=r"variant 'nf4': engine = \"vllm\" runs checkpoints, and bnb"):
        plan_of(tiny_path, variants=[{"quantizer": "full"}, {**bnb, "execution": "kernel"}])
    with pytest.raises(ConfigError, match="variant 'rtn-4'"):
        plan_of(tiny_path, variants=[{"quantizer": "full"}, {"quantizer": "rtn", "execution": "kernel"}])
    kept = [{**bnb, "execution": "dequantized"}, {"quantizer": "gptq", "execution": "kernel"}]
    assert len(plan_of(tiny_path, variants=[{"quantizer": "full"}, *kept]).variants) == 3


def test_an_explainer_that_needs_more_than_texts_is_refused_at_planning(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from explainers.memorization import Memorization

    monkeypatch.setattr(Memorization, "needs", frozenset({"generate", "residuals", "gradients"}))

    with pytest.raises(
        ConfigError, match=r"'memorization': needs gradients and residuals .* \"vllm\" offers"
    ):
        plan_of(tiny_path)
    assert plan_of(tiny_path, engine="transformers").rows


def test_without_vllm_the_error_names_its_extra(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr(machine, "has_packages", lambda names: [n for n in names if n == "vllm"])

    with pytest.raises(MissingExtra, match=r"engine = \"vllm\" needs the package 'vllm'.*\[vllm\]"):
        check_packages(list(plan_of(tiny_path).variants))
    with pytest.raises(MissingExtra, match=r"\[vllm\]"):
        open_lm(plan_of(tiny_path).parent, tiny_path, 4096)
    check_packages(list(plan_of(tiny_path, engine="transformers").variants))


def test_an_unknown_engine_is_refused(tiny_path: Path) -> None:
    with pytest.raises(ConfigError, match="engine"):
        plan_of(tiny_path, engine="vlm")
