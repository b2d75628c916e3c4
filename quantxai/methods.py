"""The base classes a quantizer, an explainer or a scorer is written against.

The base class names and checks; the method computes. A method is one frozen, closed pydantic model:
its fields are its options, each with a default and a description, and become the keys a
configuration file may hold. Files that define methods import torch and transformers inside their
methods, so that options can be validated on a machine without them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from quantxai.checkpoints import load_dense
from quantxai.errors import ModelError
from quantxai.records import Item, Metric, Record, Row, digest

if TYPE_CHECKING:
    from quantxai.datasets import Dataset, Task
    from quantxai.devices import Device
    from quantxai.lm import Architecture, LanguageModel
    from quantxai.shapes import Shape

Known = TypeVar("Known")

__all__ = [
    "Control",
    "Explainer",
    "Grid",
    "MatchedControl",
    "Method",
    "Quantizer",
    "Score",
    "Scorer",
    "ScoringContext",
    "Unquantized",
    "Work",
    "check_group_size",
]


class Method(Record):
    """What quantizers, explainers and scorers have in common: a name, a version, options."""

    method: ClassVar[str]
    """The registered name, as written in a configuration file."""
    version: ClassVar[int] = 1
    """Raised whenever the method's results may change; part of every digest."""
    summary: ClassVar[str]
    """One line for `quantxai list`."""

    def digest(self) -> str:
        """Return the SHA-256 of the method's name, version and options, defaults written out."""
        return digest(
            {"method": self.method, "version": self.version, "options": self.model_dump(mode="json")}
        )


class Grid(NamedTuple):
    """The lattice a uniform quantizer rounds to; two methods on one grid are comparable."""

    bits: int
    group_size: int
    symmetric: bool


class Quantizer(Method):
    """One quantization method: turns a parent checkpoint into a loadable variant."""

    packages: ClassVar[tuple[str, ...]]
    """Import names needed beside torch and transformers."""
    calibrated: ClassVar[bool] = False
    """Whether the method reads calibration text."""
    writes_checkpoint: ClassVar[bool] = False
    """Whether `quantize` writes a checkpoint that `load` reads; otherwise `load` reads the parent."""

    @property
    @abstractmethod
    def label(self) -> str:
        """Default variant name: method and bit width, `gptq-4`."""

    @property
    @abstractmethod
    def weight_bits(self) -> float | None:
        """Nominal bits per quantized weight without scales; null for an unquantized variant."""

    @property
    def bits_per_weight(self) -> float | None:
        """Bits per quantized weight with its share of scales (16 bit) and zero points, where known."""
        if self.grid is None:
            return None
        bits, group_size, symmetric = self.grid
        return bits + (16 + (0 if symmetric else bits)) / group_size

    def layer_bits(self, width: int) -> float | None:
        """Return `bits_per_weight` of a layer with `width` inputs; the same for all layers."""
        return self.bits_per_weight

    def kernel_bits(self, width: int, number_bits: int) -> float:
        """Return the bits per weight that its kernel keeps in memory, for a layer with `width` inputs.

        Those it is stored with, unless the library unpacks them.

        Args:
            width: inputs of the layer.
            number_bits: bits of the float type it computes in.
        """
        stored = self.layer_bits(width)
        return number_bits if stored is None else stored

    def making_bytes(self, shape: Shape, tokens: int, device: Device) -> int:
        """Return the peak memory of `quantize`, libraries left out, calibrated on so many tokens.

        Unless a method says otherwise: the parent in 16 bits, and half of it again while it is replaced.
        """
        return 3 * shape.parameters

    def making_seconds(self, shape: Shape, tokens: int, device: Device) -> float:
        """Return how long `quantize` computes, calibrated on so many tokens; reading and writing left out."""
        return 0.0

    @property
    def grid(self) -> Grid | None:
        """The uniform grid, for methods that have one."""
        return None

    @property
    def kernel_dtypes(self) -> tuple[str, ...]:
        """Compute types its kernel is right in; the dequantized twin runs in any."""
        return ("float32", "bfloat16", "float16")

    @property
    def rescales(self) -> bool:
        """Whether scales move from a layer's columns into what precedes it (AWQ).

        Its matrix and the parent's then differ by more than rounding.
        """
        return False

    @property
    def own_source(self) -> Path | None:
        """Where `load` reads from, if neither the parent nor what `quantize` wrote: made elsewhere."""
        return None

    @property
    def download_bytes(self) -> int:
        """What `fetch` has to download."""
        return 0

    def fetch(self, report: Callable[[str], None]) -> None:
        """Make `own_source` present, with one line reported per step."""

    @property
    def has_twin(self) -> bool:
        """Whether dense weights reproduce the variant (weight-only methods), so it can run dequantized."""
        return True

    def compute_dtype(self, sweep: str) -> str:
        """Return the float type it computes in, where the sweep computes in `sweep`: the same."""
        return sweep

    def calibration_sequences(self, sequences: int, length: int) -> int:
        """Return how many of the calibration sequences of `length` tokens the method reads: all."""
        return sequences

    def calibration_dtype(self, device: str, sweep: str) -> str:
        """Return the float type `quantize` reads calibration text in, where the sweep computes in `sweep`."""
        return sweep

    def check(self, architecture: Architecture) -> None:
        """Raise ModelError where the method cannot quantize this architecture."""

    def quantize(
        self,
        parent: Path,
        calibration: Sequence[Sequence[int]],
        out: Path,
        device: str,
        dtype: str,
        observe: Callable[[Any], None],
    ) -> None:
        """Write the quantized checkpoint of `parent` to the empty directory `out`.

        Args:
            parent: directory of the parent checkpoint.
            calibration: token id sequences of equal length.
            out: where to write.
            device: torch device.
            dtype: see calibration_dtype.
            observe: to be called with the quantized transformers model, as it is in memory: what is loaded
                from `out` is then checked to give the same logits.
        """
        raise TypeError(f"{self.method} quantizes when it loads and writes no checkpoint")

    @abstractmethod
    def load(self, source: Path, dtype: str, device: str) -> Any:
        """Load the variant on its kernel.

        Args:
            source: the checkpoint written by `quantize`, or the parent where none is written.
            dtype: compute dtype: float32, bfloat16 or float16.
            device: torch device.

        Returns:
            A transformers causal language model in evaluation mode.
        """


class Unquantized(Quantizer):
    """What all variants with plain matrices share: nothing is packed, and there is no twin to run."""

    packages: ClassVar[tuple[str, ...]] = ()

    @property
    def weight_bits(self) -> None:
        """See Quantizer.weight_bits."""
        return None

    @property
    def has_twin(self) -> bool:
        """Its weights are dense already."""
        return False

    def load(self, source: Path, dtype: str, device: str) -> Any:
        """See Quantizer.load."""
        return load_dense(source, dtype, device)


class Control(Unquantized):
    """A null control: a variant that is not quantized, run beside those that are.

    What a control changes is no effect of quantization. Its findings are told apart from the others'
    and are no part of their family of tests.
    """


class MatchedControl(Control):
    """A control that disturbs the parent as much as another variant does."""

    writes_checkpoint: ClassVar[bool] = True

    of: str = Field(description="Name of the variant whose weight error it is as large as, layer by layer.")

    def making_bytes(self, shape: Shape, tokens: int, device: Device) -> int:
        """See Quantizer.making_bytes. Disturbed in float32 in the host's memory."""
        return 6 * shape.parameters if device.kind == "cpu" else 0

    @abstractmethod
    def disturb(self, parent: Path, errors: Mapping[str, float], out: Path, seed: int) -> None:
        """Write a dense checkpoint of the disturbed parent to the empty directory `out`.

        Args:
            parent: directory of the parent checkpoint.
            errors: Frobenius norm of the other variant's weight error, by layer name.
            out: where to write.
            seed: of everything random.
        """


def check_group_size(group_size: int, architecture: Architecture) -> None:
    """Raise ModelError unless the group size divides the input width of every linear layer."""
    if not architecture.linear_widths:
        raise ModelError(
            f"architecture '{architecture.model_type}' has no torch.nn.Linear layers to quantize; "
            "choose another model or only the variant 'full'"
        )
    for name, width in architecture.linear_widths.items():
        if width % group_size:
            widths = sorted(set(architecture.linear_widths.values()))
            fitting = [g for g in (16, 32, 64, 128, 256) if all(w % g == 0 for w in widths)]
            raise ModelError(
                f"group_size = {group_size} does not divide the width {width} of layer '{name}'. "
                f"Group sizes that divide every layer of this model: {', '.join(map(str, fitting)) or 'none'}."
            )


class Work(NamedTuple):
    """About what one item costs, for estimates of time."""

    read: float
    """Prompts about the item that are read."""
    answered: float
    """Prompts that are answered at length."""


class Explainer(Method):
    """An explanation method or interpretability probe: observes raw facts, item by item."""

    tasks: ClassVar[frozenset[Task]]
    """Kinds of data set it can work on."""
    needs: ClassVar[frozenset[str]]
    """What it asks of a model: generate, logprobs, residuals, ffn."""
    row: ClassVar[type[Row]]
    """The record of one observation; its fields become the stored columns."""

    @property
    def work(self) -> Work:
        """Return about what one item costs: an answer and two scored prompts, where it needs such."""
        answered = float("generate" in self.needs)
        return Work(answered + 2 * bool(self.needs - {"generate"}), answered)

    @abstractmethod
    def rows(self, lm: LanguageModel, dataset: Dataset, items: Sequence[Item], seed: int) -> Iterator[Row]:
        """Observe the items (a shard of the data set) and yield one row each, in order.

        Everything that is the same for all items (demonstrations, label priors) is taken from
        `dataset`, never from `items`, so that rows do not depend on how items are sharded.
        """


class Score(NamedTuple):
    """One value of one metric on one item; null where the item has none."""

    item: str
    group: str
    metric: str
    value: float | None


class ScoringContext(ABC):
    """The models a scorer may ask for; each is loaded once, at the first call."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}
        self.notes: dict[str, Any] = {}
        """What was noted since the scoring of the cell began."""
        self.parent_rows: Sequence[Row] = ()
        """The parent's rows of the cell's items, for a scorer of both; where the parent is scored, its own."""

    def remember(self, key: str, compute: Callable[[], Known]) -> Known:
        """Return what `compute` returned at the first call with this key.

        For what several cells need. It may depend on nothing but the key and models asked for inside
        `compute`, so that a cell's scores do not depend on which cells were scored before it.
        """
        if key not in self._known:
            self._known[key] = compute()
        found: Known = self._known[key]
        return found

    def note(self, key: str, value: Any) -> None:
        """Keep what a scorer has to say about itself, such as a judge's accuracy, beside the cell's scores.

        Args:
            key: a name within the scorer.
            value: anything JSON can hold.
        """
        self.notes[key] = value

    @property
    @abstractmethod
    def device(self) -> str:
        """The torch device that models of a scorer's own belong on."""

    @abstractmethod
    def parent(self) -> LanguageModel:
        """The unquantized parent, behind an engine that remembers nothing of earlier calls."""

    @abstractmethod
    def variant(self) -> LanguageModel | None:
        """The variant that a crossing scorer's cell belongs to, likewise; null where it is the parent itself.

        Only one of the parent, the variant and the models asked for by name is in memory at a time.
        """

    @abstractmethod
    def model(self, name: str) -> LanguageModel:
        """Another causal language model in the parent's float type and on its device, likewise.

        Args:
            name: a registered name, a Hub id or a local directory; one of `Scorer.models`.
        """

    @abstractmethod
    def checkpoint(self, name: str) -> Path:
        """The directory of such a model, or of one of another kind (a classifier), fetched where necessary."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Sentence embeddings [texts, dimension], each of unit length."""

    @abstractmethod
    def encode_tokens(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """The same encoder's embeddings of each text's tokens [tokens, dimension], each of unit length.

        Those of what the tokenizer puts around a text are left out.
        """


class Scorer(Method):
    """Turns stored rows into measurements; never generates."""

    explainers: ClassVar[frozenset[str]]
    """Explainer methods whose rows it reads."""
    whose: ClassVar[Literal["variant", "parent", "both"]] = "variant"
    """Whose rows it reads: the variant's; the parent's, about which it then asks the variant; or the
    variant's, compared with the parent's."""
    metrics: ClassVar[tuple[Metric, ...]]
    reads: ClassVar[float] = 0.0
    """How many texts as long as an item a language model reads for each, for estimates of time."""
    optional: ClassVar[bool] = False
    """Whether it runs only where a configuration names it: without an option set it can say nothing."""

    @property
    def models(self) -> tuple[str, ...]:
        """Models it asks for beside parent and variant: registered names, Hub ids, local directories."""
        return ()

    @abstractmethod
    def scores(self, rows: Sequence[Row], dataset: Dataset, context: ScoringContext) -> Iterator[Score]:
        """Yield one score for every row and metric; a failed row's value is null, never left out."""
