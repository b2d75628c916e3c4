"""What names the parts of a run: its manifest, its cells, its failures."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field

from quantxai.analysis import Analysis
from quantxai.files import safe_name
from quantxai.records import Metric, Record

__all__ = ["CellKey", "Failure", "Manifest"]


class CellKey(Record):
    """The name of one unit of stored work."""

    kind: Literal["rows", "scores"] = Field(description="What the cell holds.")
    variant: str
    explainer: str
    dataset: str
    scorer: str = Field("", description="Empty for rows.")
    shard: int = Field(ge=0, description="Number of the shard of items.")
    digest: str = Field(
        pattern="^[0-9a-f]{8,64}$",
        description="Of everything the content depends on; another digest is another cell.",
    )

    @property
    def id(self) -> str:
        """Relative path without suffix, safe everywhere: `rows/gptq-4/counterfactual-news/000-1a2b3c4d`."""
        scorer = f"{safe_name(self.scorer)}-" if self.scorer else ""
        folder = f"{self.kind}/{safe_name(self.variant)}/{safe_name(f'{self.explainer}-{self.dataset}')}"
        return f"{folder}/{scorer}{self.shard:03d}-{self.digest[:8]}"


class Manifest(Record):
    """What was asked for and with what: everything about a run that is not a result."""

    format: Literal[1] = Field(1, description="Layout of the run directory.")
    created: str = Field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"),
        description="When the run was first issued: ISO 8601, UTC.",
    )
    quantxai: str = Field(description="Version of quantxai.")
    commands: list[str] = Field(
        default_factory=list, description="Every command line that worked on this run."
    )
    seed: int = Field(description="Seed everything random is derived from.")
    model: dict[str, Any] = Field(description="name, source, revision, digest, licence, note.")
    parent: str = Field("full", description="Name of the unquantized variant all others are compared with.")
    dtype: str = Field(description="Compute dtype: float32, bfloat16 or float16.")
    device: str = Field(description="cpu or cuda.")
    threads: int | None = Field(None, description="CPU threads of one variant's process.")
    batch_tokens: int | None = Field(None, description="Token budget of a batch.")
    versions: dict[str, str] = Field(
        default_factory=dict, description="Version of every package that matters."
    )
    host: dict[str, Any] = Field(default_factory=dict, description="Processor, memory, accelerator, system.")
    variants: list[dict[str, Any]] = Field(
        default_factory=list, description="One each: name, method, options, digest, execution, seed."
    )
    explainers: list[dict[str, Any]] = Field(
        default_factory=list,
        description="One each: explainer, method, version, options, dataset, task, items (their number), "
        "digest of the data set, licence, source, labels.",
    )
    scorers: list[dict[str, Any]] = Field(
        default_factory=list, description="One each: scorer, version, options, metrics (Metric as a mapping)."
    )
    analysis: dict[str, Any] = Field(default_factory=dict, description="alpha, resamples, seed, margins.")
    cells: list[CellKey] = Field(default_factory=list, description="Every cell of the plan.")

    @property
    def metrics(self) -> dict[tuple[str, str], Metric]:
        """What each metric is, by scorer and name, in planned order."""
        found = [(str(s["scorer"]), Metric.model_validate(m)) for s in self.scorers for m in s["metrics"]]
        return {(scorer, metric.name): metric for scorer, metric in found}

    @property
    def planned_analysis(self) -> Analysis:
        """How the run's variants are compared."""
        return Analysis.model_validate({key: value for key, value in self.analysis.items() if key != "seed"})

    def issued(self, command: str) -> Manifest:
        """Return the manifest with one more command line."""
        return self.model_copy(update={"commands": [*self.commands, command]})


class Failure(Record):
    """What went wrong with a cell, or with a whole variant."""

    variant: str
    cell: CellKey | None = Field(None, description="null where the variant could not be made or loaded.")
    message: str
    traceback: str = ""
