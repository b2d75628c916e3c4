"""Latent multi-hop reasoning: does a model recall the bridge entity on its way, and does it use it?

Yang et al. 2024 (arXiv 2402.16837). A question r2(r1(e1)) describes its bridge e2 = r1(e1) without naming it
("the country that is home to the Eiffel Tower"). Three things are observed beside greedy completions of the
question and of both one-hop prompts:

- EntRec: how likely the residual stream at the last token of the description, read by the final norm and the
  unembedding, finds the bridge's first token; at every layer, and likewise where another subject or another
  relation has taken the place of the question's own.
- CnstScore: how alike the next tokens after the question and after the one-hop prompt that names the bridge
  are, with the Jensen-Shannon divergence beside it, since CnstScore also falls where both are uncertain.
- The causal link: the derivative of CnstScore by alpha at 0 where alpha times EntRec's gradient is added to
  the residual stream there. The gradient is analytic, the derivative a central difference of two patched
  forward passes: nothing is propagated back through the layers, whose weights may be packed.

The paper measures after layers 0 to L - 1; what is called layer l here is what enters it, so 1 is after the
first one, 0 the embedding, and L, the number of layers, enters the final norm.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import Field

from explainers.neuron_attribution import first_token
from quantxai.datasets import Dataset, Task
from quantxai.errors import DataError, InputError
from quantxai.lm import LanguageModel
from quantxai.methods import Explainer, Work
from quantxai.records import Item, Row

if TYPE_CHECKING:
    from quantxai.internals import Internals, Trace

__all__ = ["MultiHop", "MultiHopRow", "causal_layers"]

_STOP = ("\n",)
_TOGETHER = 32
"""Most items that are looked into at a time: their traces and distributions are held in memory."""
_BYTES = 2**29
"""Most memory that these may take, as long as one item takes no more."""


class MultiHopRow(Row):
    """One two-hop question: three completions, and what happens inside the model."""

    two_hop_prompt: str = Field(description="The question, after its demonstrations.")
    first_prompt: str = Field(description="The one-hop prompt that the bridge answers.")
    second_prompt: str = Field(description="The one-hop prompt that names the bridge.")
    two_hop_completion: str = Field(
        description="Greedy continuation of the question up to the end of the line."
    )
    first_completion: str = Field(description="Greedy continuation of the first one-hop prompt, likewise.")
    second_completion: str = Field(description="Greedy continuation of the second one-hop prompt, likewise.")
    gold: str = Field(description="The answer of the question and of the second one-hop prompt.")
    aliases: list[str] = Field(description="Other correct surface forms of the answer.")
    bridge: str = Field(description="The entity that the question describes without naming it.")
    bridge_aliases: list[str] = Field(description="Other correct surface forms of the bridge.")
    token: str | None = Field(None, description="The bridge's first token; null where it has none.")
    entrec: list[float] = Field(
        default_factory=list,
        description="EntRec of the bridge, nats: at the description's last token, for what enters each layer and "
        "the final norm.",
    )
    entity_prompt: str | None = Field(
        None, description="The description of another bridge by the same relation; null where there is none."
    )
    entrec_entity: list[float] = Field(
        default_factory=list, description="EntRec of the bridge at that one's last token, nats."
    )
    relation_prompt: str | None = Field(
        None, description="The description of something else by the same subject; null where there is none."
    )
    entrec_relation: list[float] = Field(
        default_factory=list, description="EntRec of the bridge at that one's last token, nats."
    )
    cnst: float | None = Field(
        None, description="CnstScore of the question and the second one-hop prompt, nats."
    )
    jsd: float | None = Field(None, description="Jensen-Shannon divergence of their next tokens, nats.")
    causal_layers: list[int] = Field(
        default_factory=list, description="Layers whose input was moved along EntRec's gradient."
    )
    causal_derivatives: list[float] = Field(
        default_factory=list,
        description="The derivative of CnstScore by alpha there, alpha times the gradient being added.",
    )
    causal_step: float = Field(description="Which share of its length the input was moved by, to and fro.")
    problem: str | None = Field(
        None, description="Why nothing was measured inside; the lists are empty then, and the numbers null."
    )


class _Question(NamedTuple):
    """An item as it is asked, and where to look; or why not to."""

    item: Item
    prompts: tuple[str, str, str]
    position: int
    token: int
    controls: dict[str, str]
    """The prompts that end with another description: entity, relation; without those the set lacks."""
    problem: str | None


class MultiHop(Explainer):
    """Asks questions over two hops, and looks for the bridge inside."""

    method: ClassVar[str] = "multi_hop"
    summary: ClassVar[str] = "latent multi-hop reasoning: both hops, recall of the bridge entity and its use"
    tasks: ClassVar[frozenset[Task]] = frozenset({"composition"})
    needs: ClassVar[frozenset[str]] = frozenset({"generate", "residuals"})
    row: ClassVar[type[Row]] = MultiHopRow

    shots: int = Field(
        default=0, ge=0, description="Questions of the same relations shown before each prompt, answered."
    )
    max_new_tokens: int = Field(default=12, ge=1, description="Most tokens of a completion.")
    causal_layers: int = Field(
        default=4,
        ge=0,
        description="At how many layers, spread evenly over the depth, the causal link is measured; each takes "
        "two forward passes per item.",
    )
    # Measured on SmolLM2-135M, 40 questions at 4 layers, against a step of 0.01 in float32: at 0.05, 0.1, 0.15
    # and 0.2 the sign is the same for 99, 98, 96 and 93 % of the derivatives in float32, and for 80, 79, 91 and
    # 89 % in bfloat16, whose rounding hides small steps.
    step: float = Field(
        default=0.15,
        gt=0,
        le=1,
        description="Share of its length that the residual stream is moved by, to and fro, for the causal link.",
    )

    @property
    def work(self) -> Work:
        """See Explainer.work: three completions, three traces, two distributions, and the causal link."""
        return Work(3 + 3 + 2 + 2 * self.causal_layers, 3)

    def rows(self, lm: LanguageModel, dataset: Dataset, items: Sequence[Item], seed: int) -> Iterator[Row]:
        """Ask and look into every item; nothing here is random, the seed is not used."""
        if not items:
            return
        internals = lm.internals()
        asked = [self._question(internals, dataset, item) for item in items]
        prompts = [prompt for question in asked for prompt in question.prompts]
        said = lm.generate(prompts, max_new_tokens=self.max_new_tokens, stop=_STOP)
        texts = [generation.text for generation in said]
        together = _together(internals, self.causal_layers)
        for start in range(0, len(asked), together):
            some = asked[start : start + together]
            inside = iter(self._observed(internals, [q for q in some if q.problem is None]))
            for place, question in enumerate(some, start):
                columns = next(inside) if question.problem is None else {"problem": question.problem}
                yield self._row(question, texts[3 * place : 3 * place + 3], columns)

    def _row(self, question: _Question, said: Sequence[str], columns: dict[str, Any]) -> MultiHopRow:
        item, (both, first, second) = question.item, question.prompts
        return MultiHopRow(
            item=item.id,
            group=item.group,
            two_hop_prompt=both,
            first_prompt=first,
            second_prompt=second,
            two_hop_completion=said[0],
            first_completion=said[1],
            second_completion=said[2],
            gold=item.label or "",
            aliases=list(item.aliases),
            bridge=item.fields["bridge"],
            bridge_aliases=_bridge_aliases(item),
            causal_step=self.step,
            **columns,
        )

    def _question(self, internals: Internals, dataset: Dataset, item: Item) -> _Question:
        fields, shown = item.fields, self._shown(dataset, item)
        before = "".join(f"{d.text} {d.label}.\n" for d in shown)
        prompts = (
            before + item.text,
            "".join(f"{d.fields['first_prompt']} {d.fields['bridge']}.\n" for d in shown)
            + fields["first_prompt"],
            "".join(f"{d.fields['second_prompt']} {d.label}.\n" for d in shown) + fields["second_prompt"],
        )
        controls = {
            name: before + fields[f"{name}_prompt"]
            for name in ("entity", "relation")
            if fields.get(f"{name}_prompt", "").strip()
        }
        token, problem = first_token(internals, prompts[1], fields["bridge"])
        if problem:
            problem = problem.replace("the object", "the bridge")
        elif not (item.label or "").strip():
            problem = "the answer is empty"
        end, position = _description_end(item), 0
        if end is None:
            problem = problem or "the question does not hold its description"
        else:
            try:
                position = internals.position_of(prompts[0], len(before) + end)
            except InputError as error:
                problem = problem or f"the description cannot be located: {error}"
        return _Question(item, prompts, position, token or 0, controls, problem)

    def _shown(self, dataset: Dataset, item: Item) -> list[Item]:
        relations = item.fields["relations"]
        shown = [d for d in dataset.demonstrations if d.fields["relations"] == relations][: self.shots]
        if len(shown) < self.shots:
            raise DataError(
                f"{dataset.name}: '{relations}' has {len(shown)} demonstrations and multi_hop is to show "
                f"{self.shots}; lower the option shots"
            )
        return shown

    def _observed(self, internals: Internals, asked: Sequence[_Question]) -> Iterator[dict[str, Any]]:
        """Yield the columns of each question that has none of the problems."""
        from explainers.multi_hop_measures import consistency, jensen_shannon

        if not asked:
            return
        traces = internals.trace([q.prompts[0] for q in asked], [q.position for q in asked])
        after = internals.next_tokens([q.prompts[place] for place in (0, 2) for q in asked])
        p, q = after.split(len(asked))
        recalls = _recalls(internals, asked, traces)
        layers = causal_layers(internals.layers, self.causal_layers)
        derivatives = self._derivatives(internals, asked, traces, layers, q)
        rows = zip(consistency(p, q).tolist(), jensen_shannon(p, q).tolist(), strict=True)
        for i, (question, (cnst, jsd)) in enumerate(zip(asked, rows, strict=True)):
            recalled = [value for found in recalls.values() for value in found.get(i, [])]
            if not all(map(math.isfinite, [cnst, jsd, *recalled, *derivatives[i]])):
                yield {"problem": "the model's numbers are not finite"}
                continue
            yield {
                "token": internals.tokenizer.decode([question.token]),
                **{f"{name}_prompt": prompt for name, prompt in question.controls.items()},
                **{column: found[i] for column, found in recalls.items() if i in found},
                "cnst": cnst,
                "jsd": jsd,
                "causal_layers": layers,
                "causal_derivatives": derivatives[i],
            }

    def _derivatives(
        self,
        internals: Internals,
        asked: Sequence[_Question],
        traces: Sequence[Trace],
        layers: list[int],
        q: Any,
    ) -> list[list[float]]:
        """For each question and layer (C(alpha) - C(-alpha)) / (2 alpha), C being CnstScore."""
        import torch

        from explainers.multi_hop_measures import consistency, nudges

        if not layers:
            return [[] for _ in asked]
        residuals = torch.stack([t.residuals[layers] for t in traces])
        tokens = torch.tensor([[a.token] * len(layers) for a in asked], device=residuals.device)
        moves, alpha = nudges(internals.readout, residuals, tokens, self.step)
        each = 2 * len(layers)
        moved = internals.patched(
            [a.prompts[0] for a in asked for _ in range(each)],
            [layer for _ in asked for layer in layers for _ in range(2)],
            [a.position for a in asked for _ in range(each)],
            torch.stack([moves, -moves], 2).flatten(0, 2),
        )
        scores = consistency(moved, q.repeat_interleave(each, 0)).reshape(len(asked), len(layers), 2)
        found: list[list[float]] = ((scores[..., 0] - scores[..., 1]) / (2 * alpha)).tolist()
        return found


def causal_layers(layers: int, wanted: int) -> list[int]:
    """Return `wanted` layers (or as many as there are) spread evenly between the first and the last.

    >>> causal_layers(30, 4), causal_layers(2, 4), causal_layers(1, 4)
    ([6, 12, 18, 24], [1], [])
    """
    found = {round(layers * place / (wanted + 1)) for place in range(1, wanted + 1)}
    # What enters the final norm at the description reaches no other token, and what enters the first
    # layer is the token itself.
    return sorted(layer for layer in found if 0 < layer < layers)


def _together(internals: Internals, causal_layers: int) -> int:
    """How many items are looked into at a time: as many as `_BYTES` hold, 1 at least, `_TOGETHER` at most.

    An item has three traces (6 vectors as wide as the residual stream and the FFN's activations per layer, copied
    once when they are put together) and 2 + 2 causal_layers distributions, of which the measures hold about
    three copies; 4 bytes per number.
    """
    trace = 4 * 2 * internals.layers * (6 * internals.hidden + internals.ffn_width)
    distributions = 4 * 3 * (2 * causal_layers + 2) * internals.readout.vocabulary
    return max(1, min(_TOGETHER, _BYTES // (3 * trace + distributions)))


def _recalls(
    internals: Internals, asked: Sequence[_Question], traces: Sequence[Trace]
) -> dict[str, dict[int, list[float]]]:
    """EntRec of each question [layers + 1], and of its controls, by column and the question's place."""
    import torch

    from explainers.multi_hop_measures import entity_recall

    places = [("entrec", i) for i in range(len(asked))]
    prompts = []
    for name in ("entity", "relation"):
        for i, question in enumerate(asked):
            if name in question.controls:
                places.append((f"entrec_{name}", i))
                prompts.append(question.controls[name])
    residuals = torch.stack([t.residuals for t in (*traces, *internals.trace(prompts))])
    tokens = torch.tensor([asked[i].token for _, i in places], device=residuals.device)
    values = entity_recall(internals.readout, residuals, tokens[:, None].expand(residuals.shape[:2]))
    found: dict[str, dict[int, list[float]]] = {}
    for (column, i), value in zip(places, values.tolist(), strict=True):
        found.setdefault(column, {})[i] = value
    return found


def _description_end(item: Item) -> int | None:
    """Where in its text an item's description ends, case aside: its last occurrence, null where there is none."""
    wanted = item.fields["description"].strip()
    found = list(re.finditer(re.escape(wanted), item.text, re.IGNORECASE)) if wanted else []
    return found[-1].end() if found else None


def _bridge_aliases(item: Item) -> list[str]:
    return [alias for alias in item.fields.get("bridge_aliases", "").split("\n") if alias]
