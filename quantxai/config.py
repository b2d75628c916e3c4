"""What a sweep is asked to do: a closed TOML file, or the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from quantxai import registry
from quantxai.analysis import Analysis, confirmatory_outcomes, with_margins
from quantxai.errors import ConfigError, InputError, nearest
from quantxai.methods import Explainer, MatchedControl, Method, Quantizer, Scorer
from quantxai.records import Record, digest
from quantxai.validation import entry_name, read_toml, validate

__all__ = [
    "Calibration",
    "ExplainerConfig",
    "ModelConfig",
    "SweepConfig",
    "VariantConfig",
    "default_scorers",
    "load_config",
    "parse_config",
]

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Execution = Literal["auto", "dequantized", "kernel"]
Engine = Literal["transformers", "vllm"]


class ModelConfig(Record):
    """The parent model."""

    name: str = Field(
        "smollm2-135m", description="A registered name (quantxai list models), a Hub id or a local directory."
    )
    revision: str | None = Field(None, description="Commit, tag or branch of a Hub id.")
    dtype: Dtype = Field(
        "auto",
        description="Compute type of every variant; auto: bfloat16 where the processor has it, else float32.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: the first GPU, else the CPU.")


class Calibration(Record):
    """The text GPTQ and AWQ are fitted to: the built-in calibration splits, mixed, or your own."""

    sequences: int = Field(32, ge=1, description="Number of calibration sequences.")
    length: int = Field(256, ge=16, description="Tokens of each sequence.")
    path: str | None = Field(
        None,
        description="Your own text in place of the built-in ones: a UTF-8 file, texts separated by empty lines. It "
        "may hold none of the evaluated texts.",
    )


class VariantConfig(Record):
    """One variant: a quantizer, its options, and how it is run."""

    name: str = Field(description="Unique; by default the quantizer's own label, such as gptq-4.")
    quantizer: str = Field(description="A registered quantizer (quantxai list quantizers).")
    execution: Execution = Field(
        "auto",
        description="dequantized: the quantized weights as dense matrices; kernel: as the library runs them; "
        "auto: dequantized on a CPU where the method is weight-only, else kernel.",
    )
    seed: int = Field(0, ge=0, description="Seed of the calibration sample, and of a noise control's noise.")
    seeds: tuple[int, ...] | None = Field(
        None,
        description="Several seeds in place of one, [0, 1, 2]: a variant each, the first as it is, the others as "
        "its controls under NAME-seed-N.",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="The quantizer's own options.")

    def method(self) -> Quantizer:
        """Return the quantizer with its options."""
        return registry.method("quantizer", self.quantizer).model_validate(self.options)


class ExplainerConfig(Record):
    """One explainer on one data set."""

    name: str = Field(description="Unique together with the data set; by default the explainer's name.")
    explainer: str = Field(description="A registered explainer (quantxai list explainers).")
    dataset: str = Field(description="A registered data set (quantxai list datasets).")
    path: str | None = Field(
        None, description="A local file or directory in the data set's published format."
    )
    revision: str | None = Field(
        None, description="Hub revision of the data set, in place of the pinned one."
    )
    n: int | None = Field(None, ge=1, description="Number of items, stratified; all where left out.")
    cell_items: int = Field(
        256, ge=1, description="Items a cell holds about; a killed run repeats at most the cells in work."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="The explainer's own options.")

    def method(self) -> Explainer:
        """Return the explainer with its options."""
        return registry.method("explainer", self.explainer).model_validate(self.options)


class ScorerConfig(Record):
    """One scorer; it scores the rows of every explainer it can read."""

    scorer: str = Field(description="A registered scorer (quantxai list scorers).")
    options: dict[str, Any] = Field(default_factory=dict, description="The scorer's own options.")

    def method(self) -> Scorer:
        """Return the scorer with its options."""
        return registry.method("scorer", self.scorer).model_validate(self.options)


class SweepConfig(Record):
    """A whole sweep."""

    seed: int = Field(0, ge=0, description="Seed of everything random but calibration.")
    engine: Engine = Field(
        "transformers",
        description="What runs the models. vllm (an extra) takes checkpoints and offers texts and their "
        "probabilities alone: no hidden states, no gradients.",
    )
    batch_tokens: int = Field(4096, ge=64, description="Tokens a batch may hold, the same for every variant.")
    workers: int | None = Field(
        None, ge=1, description="Variants run at the same time; two on a CPU, one on a GPU where left out."
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads of each worker; the cores shared evenly where left out."
    )
    run_broken: bool = Field(
        False, description="Explain variants that fail the sanity gate, too (they are marked either way)."
    )
    model: ModelConfig = ModelConfig()
    calibration: Calibration = Calibration()
    variants: tuple[VariantConfig, ...]
    explainers: tuple[ExplainerConfig, ...]
    scorers: tuple[ScorerConfig, ...]
    analysis: Analysis = Analysis()

    @property
    def parent(self) -> VariantConfig:
        """The unquantized variant everything is compared with: the first of the method `full`."""
        return next(v for v in self.variants if v.quantizer == "full")

    @model_validator(mode="after")
    def _check(self) -> SweepConfig:
        if not any(v.quantizer == "full" for v in self.variants):
            raise ValueError(
                'no variant has quantizer = "full": the others have no parent to be compared with'
            )
        _unique("variants", [v.name for v in self.variants], "name")
        _unique("explainers", [f"{e.name} on {e.dataset}" for e in self.explainers], "name and dataset")
        _unique("scorers", [s.scorer for s in self.scorers], "scorer")
        _check_analysis(self)
        return self

    def digest(self) -> str:
        """Return the SHA-256 of the configuration, defaults written out."""
        return digest(self.model_dump(mode="json"))


DEFAULT_VARIANTS: tuple[dict[str, Any], ...] = (
    {"quantizer": "full"},
    {"quantizer": "bnb", "format": "int8"},
    {"quantizer": "bnb", "format": "nf4"},
    {"quantizer": "gptq", "bits": 4, "group_size": 64},
    {"quantizer": "gptq", "bits": 3, "group_size": 64},
    {"quantizer": "awq", "bits": 4, "group_size": 64},
    {"quantizer": "rtn", "bits": 4, "group_size": 64},
)
# The built-in texts have fewer than 40 tokens. In the chat format the default model copies texts rather than
# edit them (8 % flips on the news against 33 %); a larger chat model is asked in its own format: chat = true.
DEFAULT_EXPLAINERS: tuple[dict[str, Any], ...] = (
    {"explainer": "counterfactual", "dataset": "news", "n": 16, "chat": False, "max_new_tokens": 40},
    {
        "explainer": "counterfactual",
        "dataset": "inference",
        "n": 12,
        "chat": False,
        "max_new_tokens": 40,
    },
    {
        "explainer": "natural_language",
        "dataset": "inference",
        "n": 12,
        "order": "predict-then-explain",
        "chat": False,
    },
    {"explainer": "memorization", "dataset": "relations", "n": 216},
    {"explainer": "neuron_attribution", "dataset": "relations", "n": 8},
    {"explainer": "multi_hop", "dataset": "two_hop", "n": 12},
)


def default_scorers() -> list[dict[str, Any]]:
    """Return an entry for every registered scorer but the optional ones."""
    return [
        {"scorer": name} for name in registry.names("scorer") if not registry.method("scorer", name).optional
    ]


def _unique(key: str, values: list[str], what: str) -> None:
    twice = sorted({v for v in values if values.count(v) > 1})
    if twice:
        raise ValueError(f"{key}: two entries have the {what} '{twice[0]}'; give each a name of its own")


def _check_analysis(config: SweepConfig) -> None:
    metrics = {(s.scorer, m.name): m for s in config.scorers for m in s.method().metrics}
    try:
        confirmatory_outcomes(config.analysis, metrics)
        with_margins(config.analysis, metrics)
    except InputError as error:
        raise ValueError(str(error)) from None
    explained = {e.method().method for e in config.explainers}
    asked = {s.scorer for s in config.scorers if explained & set(s.method().explainers)}
    for name in config.analysis.confirmatory or ():
        if name.rsplit(".", 1)[0] not in asked:
            raise ValueError(
                f"analysis.confirmatory: '{name}' is measured on none of this sweep's explainers "
                f"({', '.join(sorted(explained))}); add the explainer it belongs to, or take it out"
            )
    variants = [v.name for v in config.variants]
    for contrast in config.analysis.contrasts:
        for name in contrast:
            if name not in variants:
                raise ValueError(
                    f"analysis.contrasts: unknown variant '{name}'.{nearest(name, variants)} "
                    f"Available: {', '.join(variants)}."
                )
        if contrast[0] == contrast[1]:
            raise ValueError(
                f"analysis.contrasts: '{contrast[0]}' is compared with itself; name two variants"
            )


def load_config(path: Path) -> SweepConfig:
    """Read and validate a sweep's TOML file.

    Raises:
        ConfigError: the file is missing, not TOML, or asks for something that does not exist; the
            message names the file, the key, what is allowed and the nearest match.
    """
    table = read_toml(path, f"Write a commented example with: quantxai init {path}")
    return parse_config(table, str(path))


def parse_config(table: Mapping[str, Any], source: str = "configuration") -> SweepConfig:
    """Validate a configuration given as plain tables; `source` leads every error message."""
    table = dict(table)
    for key, default in (("variants", DEFAULT_VARIANTS), ("explainers", DEFAULT_EXPLAINERS)):
        table[key] = _tables(table.get(key, default), source, key)
    table["scorers"] = _tables(table.get("scorers") or default_scorers(), source, "scorers")
    kinds: tuple[tuple[str, type[Record], registry.Kind], ...] = (
        ("variants", VariantConfig, "quantizer"),
        ("explainers", ExplainerConfig, "explainer"),
        ("scorers", ScorerConfig, "scorer"),
    )
    for key, record, kind in kinds:
        table[key] = [
            _entry(entry, record, kind, f"{source}: {entry_name(key, i)}")
            for i, entry in enumerate(table[key])
        ]
    table["variants"] = [one for entry in table["variants"] for one in _replicates(entry, source)]
    return validate(SweepConfig, table, source)


def _replicates(entry: dict[str, Any], source: str) -> list[dict[str, Any]]:
    """One entry for each of its seeds."""
    seeds = entry.pop("seeds", None)
    if seeds is None:
        return [entry]
    where = f"{source}: variants '{entry['name']}'"
    found = isinstance(seeds, list | tuple) and all(type(s) is int and s >= 0 for s in seeds)
    if not (found and seeds and len(set(seeds)) == len(seeds)) or "seed" in entry:
        raise ConfigError(
            f"{where}: seeds must be a list of different whole numbers from 0, such as [0, 1, 2], in place of seed"
        )
    method = registry.method("quantizer", entry["quantizer"])
    if not (method.calibrated or issubclass(method, MatchedControl)):
        raise ConfigError(
            f"{where}: '{entry['quantizer']}' has nothing random that a seed could change; leave seeds out"
        )
    names = [entry["name"], *(f"{entry['name']}-seed-{seed}" for seed in seeds[1:])]
    return [{**entry, "name": name, "seed": seed} for name, seed in zip(names, seeds, strict=True)]


def _tables(value: Any, source: str, key: str) -> list[Any]:
    if isinstance(value, list | tuple) and all(isinstance(v, Mapping) for v in value) and value:
        return list(value)
    raise ConfigError(f"{source}: {key} must be a list of tables, each written as [[{key}]]")


def _entry(entry: Mapping[str, Any], record: type[Record], kind: registry.Kind, where: str) -> dict[str, Any]:
    """Split an entry into the sweep's keys and the method's options; fill in the default name."""
    own = {k: v for k, v in entry.items() if k in record.model_fields and k != "options"}
    options = {k: v for k, v in entry.items() if k not in own}
    name = own.get(kind)
    if not isinstance(name, str):
        what = "is missing" if name is None else "must be a name"
        raise ConfigError(f"{where}: the key '{kind}' {what}. Available: {', '.join(registry.names(kind))}.")
    try:
        found: type[Method] = registry.method(kind, name)
    except InputError as error:
        raise ConfigError(f"{where}: {error}") from None
    method = validate(found, options, where, also=[k for k in record.model_fields if k != "options"])
    if "name" in record.model_fields:
        own.setdefault("name", method.label if isinstance(method, Quantizer) else name)
    return {**own, "options": method.model_dump(mode="json")}
