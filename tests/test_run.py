"""The whole way of a sweep on the tiny model, and what interrupts it.

Sweeps in this process share one server of worker processes; only what is killed as a whole runs in an
interpreter of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from quantxai import conditions  # noqa: E402
from quantxai.conditions import NotComparable  # noqa: E402
from quantxai.config import parse_config  # noqa: E402
from quantxai.errors import ConfigError, CorruptCell, IncompleteRun, ModelError, RunError  # noqa: E402
from quantxai.jobs import RunVariant  # noqa: E402
from quantxai.plan import Plan, make_plan  # noqa: E402
from quantxai.records import Row  # noqa: E402
from quantxai.report import build_report  # noqa: E402
from quantxai.run import _grouped as grouped  # noqa: E402
from quantxai.run import compare_run, sweep  # noqa: E402
from quantxai.store import CellKey, Store  # noqa: E402

VARIANTS = ("full", "rtn-4", "nf4")
SHARDS, FACTS, NEWS = 2, 36, 8
ROW_CELLS = 2 * SHARDS * len(VARIANTS)
CELLS = ROW_CELLS + len(VARIANTS)
"""Two explainers; the scorer reads one of them."""


def config(model: Path, **changes: Any) -> dict[str, Any]:
    table: dict[str, Any] = {
        "model": {"name": str(model), "dtype": "float32", "device": "cpu"},
        "threads": 1,
        "variants": [
            {"quantizer": "full"},
            {"quantizer": "rtn", "bits": 4, "group_size": 32},
            {"quantizer": "bnb", "format": "nf4"},
        ],
        "explainers": [
            {"explainer": "memorization", "dataset": "relations", "n": FACTS, "cell_items": FACTS // SHARDS},
            {
                "explainer": "counterfactual",
                "dataset": "news",
                "n": NEWS,
                "cell_items": NEWS // SHARDS,
                "max_new_tokens": 12,
            },
        ],
        "scorers": [{"scorer": "recall"}],
        "analysis": {"resamples": 1000},
    }
    return {**table, **changes}


@dataclass
class Lines:
    """A Progress that keeps what it is told, and can act on it."""

    said: list[str] = field(default_factory=list)
    units: int = 0
    act: Callable[[str], None] = lambda _: None

    def line(self, text: str) -> None:
        self.said.append(text)
        self.act(text)

    def start(self, what: str, total: int) -> None:
        self.line(f"start {what} {total}")

    def advance(self, units: int) -> None:
        self.units += units
        self.line(f"advance {units}")

    def stop(self) -> None:
        """Nothing to do."""


@dataclass(frozen=True)
class Finished:
    """A complete, undisturbed sweep: never written to, only copied."""

    run: Path
    cache: Path
    lines: list[str]


@pytest.fixture(scope="module")
def finished(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    base, lines = tmp_path_factory.mktemp("finished"), Lines()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("QUANTXAI_CACHE", str(base / "cache"))
        sweep(config(tiny_path), base / "run", progress=lines)
    return Finished(base / "run", base / "cache", lines.said)


@pytest.fixture
def copy(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run, with a copy of its cache in use."""
    shutil.copytree(finished.cache, tmp_path / "cache")
    shutil.copytree(finished.run, tmp_path / "run")
    monkeypatch.setenv("QUANTXAI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "run"


def files(run: Path) -> dict[str, tuple[int, bytes]]:
    """Every cell's files: time of change and content."""
    return {
        f.relative_to(run).as_posix(): (f.stat().st_mtime_ns, f.read_bytes())
        for kind in ("rows", "scores")
        for f in (run / kind).rglob("*.*")
    }


def tables(run: Path) -> dict[str, Any]:
    store = Store.open(run)
    return {key.id: store.read(key) for key in store.manifest.cells}


def plan_of(model: Path, **changes: Any) -> Plan:
    return make_plan(parse_config(config(model, **changes)))


# A whole sweep


def test_a_sweep_is_complete(finished: Finished) -> None:
    store = Store.open(finished.run)
    cells = store.manifest.cells

    assert [c.kind for c in cells] == ["rows"] * ROW_CELLS + ["scores"] * len(VARIANTS)
    assert all(store.has(c) for c in cells)
    assert not store.failures()
    assert not store.corrupt()
    assert len(store.rows()) == (FACTS + NEWS) * len(VARIANTS)
    assert (finished.run / "report.html").stat().st_size > 10_000
    assert (finished.run / "report.md").is_file()
    assert (finished.run / "exports/findings.json").is_file()
    assert not list(finished.run.rglob("*.tmp"))


def test_every_variant_answers_the_same_questions(finished: Finished) -> None:
    rows = Store.open(finished.run).rows("memorization")
    asked = {
        name: list(zip(part["item"], part["prompt"], strict=True)) for name, part in rows.groupby("variant")
    }

    assert set(asked) == set(VARIANTS)
    assert asked["rtn-4"] == asked["nf4"] == asked["full"]


def test_quantization_changes_the_rows(finished: Finished) -> None:
    means = Store.open(finished.run).rows("memorization").groupby("variant")["logprob"].mean()

    assert len(set(means.round(6))) == len(VARIANTS)


def test_every_variant_has_a_receipt(finished: Finished) -> None:
    receipts = Store.open(finished.run).receipts()

    assert list(receipts) == list(VARIANTS)
    assert [r["execution"] for r in receipts.values()] == ["kernel", "dequantized", "dequantized"]
    assert [r["quantized_layers"] for r in receipts.values()] == [0, 14, 14]
    assert receipts["nf4"]["kernel"] == "Linear4bit"
    assert all(20 < r["perplexity"] < 2000 for r in receipts.values())


def test_every_variant_is_compared_with_the_parent(finished: Finished) -> None:
    findings = Store.open(finished.run).findings()

    assert {f.variant for f in findings} == {"rtn-4", "nf4"}
    assert {f.reference for f in findings} == {"full"}
    assert {f.n for f in findings if f.metric == "recall"} == {FACTS}


def test_the_manifest_says_what_was_asked_for(finished: Finished, tiny_path: Path) -> None:
    manifest = Store.open(finished.run).manifest

    assert len(manifest.commands) == 1
    assert manifest.model["digest"] == plan_of(tiny_path).model.digest
    assert (manifest.dtype, manifest.device, manifest.threads) == ("float32", "cpu", 1)
    assert manifest.versions["transformers"]
    assert str(tiny_path.parent) not in json.dumps(manifest.explainers)


def test_progress_adds_up(finished: Finished) -> None:
    said = finished.lines

    everything = (FACTS + NEWS) * len(VARIANTS)
    assert f"start explaining {everything}" in said
    explained = said[: said.index(f"start scoring {len(VARIANTS)}")]
    assert sum(int(s.removeprefix("advance ")) for s in explained if s.startswith("advance")) == everything


# Issued again


def test_issued_again_it_computes_nothing(copy: Path, tiny_path: Path) -> None:
    before, lines = files(copy), Lines()

    store = sweep(config(tiny_path), copy, progress=lines)

    assert files(copy) == before
    assert lines.units == 0
    assert not any("measuring" in line or ": explaining" in line for line in lines.said)
    assert len(store.manifest.commands) == 2


@pytest.mark.e2e
def test_one_more_variant_computes_only_that(copy: Path, tiny_path: Path) -> None:
    before = files(copy)
    more = [*config(tiny_path)["variants"], {"quantizer": "rtn", "bits": 8, "group_size": 32}]

    sweep(config(tiny_path, variants=more), copy)

    after = files(copy)
    assert before.items() <= after.items()
    assert {name.split("/")[1] for name in after.keys() - before.keys()} == {"rtn-8"}


def test_another_analysis_computes_no_cell(copy: Path, tiny_path: Path) -> None:
    before = files(copy)

    store = sweep(config(tiny_path, analysis={"resamples": 1000, "margins": {"recall.recall": 0.5}}), copy)

    assert files(copy) == before
    assert {f.margin for f in store.findings() if f.metric == "recall"} == {0.5}


def test_a_run_of_another_model_is_refused(copy: Path, tiny_path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other-model"
    shutil.copytree(tiny_path, other)
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**settings, "rms_norm_eps": 1e-4}))
    before = (copy / "manifest.json").read_bytes()

    with pytest.raises(RunError, match="another model"):
        sweep(config(other), copy)
    assert (copy / "manifest.json").read_bytes() == before


def test_a_moved_run_still_reports(copy: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "moved run"
    moved.parent.mkdir()
    copy.rename(moved)
    expected = (moved / "findings.parquet").read_bytes()
    for name in ("report.html", "report.md", "findings.parquet"):
        (moved / name).unlink()

    store = Store.open(moved)
    compare_run(store)
    build_report(store)

    assert (moved / "findings.parquet").read_bytes() == expected
    assert "rtn-4" in (moved / "report.md").read_text()
    assert (moved / "report.html").is_file()


def test_two_sweeps_do_not_write_to_one_run(copy: Path, tiny_path: Path) -> None:
    with Store(copy).lock(), pytest.raises(RunError, match="another quantxai process"):
        sweep(config(tiny_path), copy)


class Watched:
    """An explainer that notes which engine each cell is given."""

    row, method, needs = Row, "watched", frozenset[str]()

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def rows(self, lm: Any, *_: Any) -> list[Row]:
        self.seen.append(lm)
        return []


def test_no_cell_sees_what_an_engine_remembers_of_another(
    tiny_path: Path, tmp_path: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Remembered prefixes move the last bit of later results, which a resumed run would not have."""
    monkeypatch.setenv("QUANTXAI_CACHE", str(finished.cache))
    plan, watched = plan_of(tiny_path), Watched()
    cells = [
        replace(c, entry=replace(c.entry, explainer=watched)) for c in plan.rows if c.variant is plan.parent
    ]
    parent = Path(str(plan.model.path))

    RunVariant("full", 1, plan.parent, parent, tmp_path / "run", cells, 8192, 0, False)(lambda *_: None)

    assert len({id(lm) for lm in watched.seen}) == len(cells) > 1
    assert len({id(lm.model) for lm in watched.seen}) == 1


# What is refused before anything is computed


def test_a_group_size_that_does_not_fit_is_refused_before_anything_is_computed(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTXAI_CACHE", str(tmp_path / "cache"))
    variants = [{"quantizer": "full"}, {"quantizer": "rtn", "group_size": 48}]

    with pytest.raises(ModelError, match=r"variant 'rtn-4': group_size = 48 does not divide .* 16, 32, 64"):
        sweep(config(tiny_path, variants=variants), tmp_path / "run")
    assert not (tmp_path / "run" / "rows").exists()


def test_an_explainer_on_the_wrong_data_is_refused(tiny_path: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="\"news\" is for topic, and the explainer 'memorization' works on recall"
    ):
        sweep(
            config(tiny_path, explainers=[{"explainer": "memorization", "dataset": "news"}]), tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


# Conditions


@pytest.mark.e2e
def test_a_run_continued_under_another_engine_is_refused_before_it_computes(
    copy: Path, tiny_path: Path
) -> None:
    sidecars = list((copy / "rows").rglob("*.json"))
    for file in sidecars:
        sidecar = json.loads(file.read_text())
        under = sidecar["meta"]["conditions"]
        assert set(under) == set(conditions.NAMES)
        assert under["engine"] == conditions.engine()
        under["engine"] = "transformers 4, torch 1"
        file.write_text(json.dumps(sidecar))
    more = [*config(tiny_path)["variants"], {"quantizer": "bnb", "format": "fp4"}]
    lines = Lines()

    with pytest.raises(NotComparable, match=r"engine: full: transformers 4, torch 1; fp4: transformers 5"):
        sweep(config(tiny_path, variants=more), copy, progress=lines)
    assert not any("explaining" in line for line in lines.said)

    pooled = {"resamples": 1000, "pool": ["engine"]}
    store = sweep(config(tiny_path, variants=more, analysis=pooled), copy)
    assert {f.variant for f in store.findings()} == {"rtn-4", "nf4", "fp4"}
    assert "Pooled on request" in (copy / "report.md").read_text()


# Controls


@pytest.mark.e2e
def test_controls_run_through_the_same_cells(copy: Path, tiny_path: Path) -> None:
    controls = [{"quantizer": "rerun"}, {"quantizer": "noise", "of": "rtn-4"}]
    variants = [*config(tiny_path)["variants"][:2], *controls]

    store = sweep(config(tiny_path, variants=variants), copy)

    described = {v["name"]: (v["control"], v["beside"]) for v in store.manifest.variants}
    assert described == {
        "full": (False, None),
        "rtn-4": (False, None),
        "rerun": (True, None),
        "noise-rtn-4": (True, "rtn-4"),
    }
    tables = {v: store.rows("memorization", variant=v).drop(columns="variant") for v in described}
    assert tables["rerun"].equals(tables["full"])
    assert not tables["noise-rtn-4"].equals(tables["full"])
    rerun = [f for f in store.findings() if f.variant == "rerun"]
    assert rerun
    assert all(f.estimate == 0 for f in rerun)
    receipts = store.receipts()
    assert receipts["rerun"]["kl"] == 0
    assert 0.2 < receipts["noise-rtn-4"]["kl"] / receipts["rtn-4"]["kl"] < 5


# What fails


@pytest.mark.e2e
def test_a_broken_variant_is_not_explained_unless_asked_for(copy: Path, tiny_path: Path) -> None:
    variant = next(v for v in plan_of(tiny_path).variants if v.name == "rtn-4")
    receipt = json.loads(variant.receipt.read_text())
    variant.receipt.write_text(json.dumps({**receipt, "fault": "its logits are not finite"}))
    shutil.rmtree(copy)

    with pytest.raises(IncompleteRun, match="rtn-4: broken, and so not explained: its logits are not finite"):
        sweep(config(tiny_path), copy)

    store = Store.open(copy)
    assert [(f.variant, f.cell) for f in store.failures()] == [("rtn-4", None)]
    assert store.receipts()["rtn-4"]["fault"] == "its logits are not finite"
    assert set(store.rows()["variant"]) == {"full", "nf4"}
    assert "broken, and so not explained" in (copy / "report.md").read_text()

    again = sweep(config(tiny_path, run_broken=True), copy)
    assert not again.failures()
    assert set(again.rows()["variant"]) == {"full", "nf4", "rtn-4"}


@pytest.mark.e2e
def test_a_failing_variant_does_not_stop_the_others(copy: Path, tiny_path: Path) -> None:
    shutil.rmtree(copy)
    twin = next(v for v in plan_of(tiny_path).variants if v.name == "rtn-4").twin
    assert twin is not None
    weights = twin / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    lines = Lines()

    with pytest.raises(IncompleteRun) as found:
        sweep(config(tiny_path), copy, progress=lines)

    message = str(found.value)
    assert message.startswith(f"{CELLS // len(VARIANTS)} of {CELLS} cells are missing")
    assert "rtn-4: variant 'rtn-4': the files in " in message
    assert str(twin) in message
    assert found.value.exit_code == 3
    store = Store.open(copy)
    (failure,) = store.failures()
    assert (failure.variant, failure.cell) == ("rtn-4", None)
    assert "Traceback" in failure.traceback
    assert {f.variant for f in store.findings()} == {"nf4"}
    assert "rtn-4" in (copy / "report.md").read_text()

    shutil.rmtree(twin)
    assert not sweep(config(tiny_path), copy).failures()


def test_a_failing_cell_does_not_stop_the_others(copy: Path, tiny_path: Path, finished: Finished) -> None:
    before = files(copy)
    usual = config(tiny_path)["explainers"]
    too_many = {**usual[0], "name": "many-shots", "shots": 99}

    with pytest.raises(IncompleteRun, match=r"99 are to be shown; lower the option shots") as found:
        sweep(config(tiny_path, explainers=[too_many, *usual]), copy)

    store = Store.open(copy)
    failed = [f.cell for f in store.failures() if f.cell]
    assert len(failed) == SHARDS * len(VARIANTS)
    assert {c.explainer for c in failed} == {"many-shots"}
    assert all("Traceback" in f.traceback for f in store.failures())
    assert str(found.value).count(f"{len(failed) // 2} cells: ") == 2
    assert files(copy) == before
    assert {f.explainer for f in store.findings()} == {"memorization"}

    assert not sweep(config(tiny_path), copy).failures()  # no longer asked for, no longer reported


@pytest.mark.parametrize(("kind", "explainer"), [("rows", "counterfactual"), ("scores", "memorization")])
def test_a_corrupt_cell_is_named_and_computed_again_on_request(
    kind: str, explainer: str, copy: Path, tiny_path: Path, finished: Finished
) -> None:
    # The last one: in the undisturbed run others came before it in the same process.
    cells = [c for c in Store.open(copy).manifest.cells if (c.kind, c.explainer) == (kind, explainer)]
    victim = cells[-1]
    file = copy / f"{victim.id}.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    others = {name: known for name, known in files(copy).items() if victim.id not in name}

    with pytest.raises(CorruptCell) as found:
        sweep(config(tiny_path), copy)
    assert victim.id in str(found.value)
    assert "--recompute-corrupt" in str(found.value)
    assert file.read_bytes() == content

    sweep(config(tiny_path), copy, recompute_corrupt=True)

    assert others.items() <= files(copy).items()
    assert all(table.equals(tables(finished.run)[name]) for name, table in tables(copy).items())


# What is killed


@pytest.mark.e2e
def test_a_killed_worker_is_reported_with_its_signal(copy: Path, tiny_path: Path, finished: Finished) -> None:
    shutil.rmtree(copy)

    def kill(text: str) -> None:
        if text.startswith("rtn-4: explaining"):
            worker = next(p for p in multiprocessing.active_children() if p.name == "rtn-4")
            os.kill(worker.pid or 0, signal.SIGKILL)

    with pytest.raises(IncompleteRun, match="rtn-4: the process of 'rtn-4' was ended by signal 9"):
        sweep(config(tiny_path), copy, progress=Lines(act=kill))

    (failure,) = Store.open(copy).failures()
    assert (failure.variant, failure.cell) == ("rtn-4", None)
    assert "signal 9" in failure.message
    assert {f.variant for f in Store.open(copy).findings()} == {"nf4"}

    sweep(config(tiny_path), copy)

    assert not Store.open(copy).failures()
    assert all(table.equals(tables(finished.run)[name]) for name, table in tables(copy).items())


SCRIPT = """
import json, sys
from quantxai.run import sweep

class Printed:
    def line(self, text): print(text, flush=True)
    def start(self, what, total): self.line(what)
    def advance(self, units): self.line(f"advance {units}")
    def stop(self): self.line("stop")

if __name__ == "__main__":
    sweep(json.loads(sys.argv[1]), sys.argv[2], progress=Printed())
"""


def in_session(session: int) -> list[int]:
    """Ids of the processes of a session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, of = (entry / "stat").read_text().rpartition(") ")[2].split()[:4]
        except (OSError, ValueError):
            continue  # it has just ended
        if int(of) == session and state != "Z":
            found.append(int(entry.name))
    return found


@pytest.mark.e2e
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes through /proc")
def test_a_sweep_killed_at_any_moment_ends_as_if_undisturbed(
    finished: Finished, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTXAI_CACHE", str(tmp_path / "cache"))
    script, run = tmp_path / "script.py", tmp_path / "run"
    script.write_text(SCRIPT)
    # Another moment every time; what an undisturbed sweep says is its clock.
    moment = random.SystemRandom()
    lines, delay = moment.randrange(1, len(finished.lines)), moment.random() / 4
    print(f"killed {delay:.3f} s after line {lines} of {len(finished.lines)}")
    process = subprocess.Popen(
        [sys.executable, str(script), json.dumps(config(tiny_path)), str(run)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for _ in range(lines):
        process.stdout.readline()
    time.sleep(delay)
    process.kill()
    process.stdout.close()
    process.wait()
    wait_for_none(process.pid)
    done = cells_done(run)

    sweep(config(tiny_path), run)

    assert tables(run).keys() == tables(finished.run).keys()
    assert all(table.equals(tables(finished.run)[name]) for name, table in tables(run).items())
    assert done.items() <= cells_done(run).items()  # what was done was not done again
    assert not list(run.rglob("*.tmp"))
    assert not list((tmp_path / "cache").rglob(".making-*"))
    assert (run / "findings.parquet").read_bytes() == (finished.run / "findings.parquet").read_bytes()


def cells_done(run: Path) -> dict[str, int]:
    """Cells that are done, and when they were written."""
    cells = Store.open(run).manifest.cells
    return {c.id: when(run, c) for c in cells if Store(run).has(c)}


def when(run: Path, cell: CellKey) -> int:
    return (run / f"{cell.id}.parquet").stat().st_mtime_ns


ENDLESS = """
import sys, time
from dataclasses import dataclass
from pathlib import Path
from quantxai.workers import Job, run_jobs

@dataclass(frozen=True)
class Endless(Job):
    def __call__(self, send):
        send("line", "working")
        time.sleep(600)

if __name__ == "__main__":
    run_jobs([Endless("one", 1), Endless("two", 1)], 2, lambda job, message: print(message, flush=True), Path("log"))
"""


@pytest.mark.e2e
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes through /proc")
def test_no_worker_outlives_who_asked_for_it(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(ENDLESS)
    process = subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert [process.stdout.readline().strip() for _ in range(2)] == ["('line', 'working')"] * 2
    assert len(in_session(process.pid)) >= 4  # itself, its server and two workers

    process.kill()
    process.stdout.close()
    process.wait()

    wait_for_none(process.pid)


def wait_for_none(session: int) -> None:
    deadline = time.monotonic() + 30
    while in_session(session) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert in_session(session) == []


@pytest.mark.e2e
def test_a_worker_imports_next_to_nothing(tiny_path: Path) -> None:
    """What the server did not import, every process of every sweep does again: it was three seconds each."""
    code = (
        "import sys, quantxai._preload\n"
        "before = set(sys.modules)\n"
        "import quantxai.jobs\n"
        "from quantxai.checkpoints import load_dense, load_tokenizer\n"
        f"load_tokenizer({str(tiny_path)!r}); load_dense({str(tiny_path)!r}, 'float32', 'cpu')\n"
        "import torch\n"
        "print(len(set(sys.modules) - before), torch.cuda.is_initialized())"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    imported, touched_gpu = done.stdout.split()
    assert int(imported) < 60
    assert touched_gpu == "False"


def test_the_same_reason_is_said_once() -> None:
    failed = [("a/x", "no FFN"), ("b/x", "no FFN"), ("c/y", "full")]
    assert grouped(failed) == ["2 cells: no FFN", "c/y: full"]
