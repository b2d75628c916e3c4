"""Commands about what there is: `quantxai list`, `models` and `doctor`, and `init` that writes it down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantxai.commands.present import presented, print_json, size, wrapped

if TYPE_CHECKING:
    from quantxai.models import ModelSource

__all__ = ["KINDS", "doctor", "init", "list_methods", "list_models", "models", "pull_model"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_SYMBOLS = {"ok": "ok", "warning": "warning", "missing": "MISSING", "broken": "BROKEN"}


KINDS = ("quantizers", "explainers", "scorers", "datasets", "models")

models = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Fetch and list registered models.")


@presented
def list_methods(
    kind: Annotated[
        str, typer.Argument(metavar="|".join(KINDS), autocompletion=lambda: KINDS, help="What to list.")
    ],
    as_json: Json = False,
) -> None:
    """List methods, data sets and models.

    Shows every name a configuration can hold, with its options, their defaults and what they mean.
    Methods that other installed packages register are listed as well.

    Example: quantxai list quantizers
    """
    if kind == "models":
        _print_models(as_json)
        return
    entries = _entries(kind)
    if as_json:
        print_json(entries)
        return
    typer.echo("\n".join(_entry_text(entry) for entry in entries))


@models.command("list")
@presented
def list_models(as_json: Json = False) -> None:
    """List the registered models.

    Any local directory and any Hub id works in their place.

    Example: quantxai models list
    """
    _print_models(as_json)


@models.command("pull")
@presented
def pull_model(
    name: Annotated[str, typer.Argument(help="A registered model or a Hub id.")], as_json: Json = False
) -> None:
    """Fetch a model into the cache.

    A sweep then needs no network.

    Example: quantxai models pull smollm2-135m
    """
    from quantxai.models import resolve
    from quantxai.progress import for_stream

    model = resolve(name)
    path = model.path
    if path is None:
        with for_stream() as progress:
            path = _fetch(model, progress.line)
    if as_json:
        print_json({"name": model.name, "path": str(path), "already_there": model.path is not None})
    else:
        typer.echo(f"{model.name} {'was already' if model.path else 'is'} in {path}")


@presented
def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Where to write it.")] = Path("sweep.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a commented example configuration.

    As it is written it is the default sweep; every key is in it and explained.

    Example: quantxai init sweep.toml && quantxai sweep sweep.toml --dry-run
    """
    from quantxai.errors import InputError
    from quantxai.example import example_config
    from quantxai.files import write_atomically

    if path.is_dir():
        raise InputError(
            f"'{path}' is a directory; give the name of a file: quantxai init {path / 'sweep.toml'}"
        )
    if path.exists() and not force:
        raise InputError(f"'{path}' exists already; give another name, or --force to replace it")
    write_atomically(path, example_config().encode())
    typer.echo(f"wrote {path}; edit it, then: quantxai sweep {path}")


@presented
def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Look for packages without importing them.")] = False,
    as_json: Json = False,
) -> None:
    """Say what works on this machine.

    And what does not, and what to do about it.

    Ends with exit code 1 when something the default sweep needs is missing or broken.

    Example: quantxai doctor
    """
    from quantxai.doctor import examine

    if not quick:
        typer.echo(
            "importing every package once (up to half a minute; --quick only looks for them) ...", err=True
        )
    found, bad = [], 0
    for check in examine(quick):
        found.append(check.model_dump())
        bad += check.needed and check.state in ("missing", "broken")
        if not as_json:
            typer.echo(wrapped(check.detail, 32, f"{_SYMBOLS[check.state]:<8}{check.name}"))
            if check.remedy:
                typer.echo(wrapped(f"-> {check.remedy}", 32))
    if as_json:
        print_json(found)
    else:
        typer.echo(
            f"\n{bad} of them must be put right before the default sweep can run."
            if bad
            else "\nEverything the default sweep needs is here."
        )
    raise typer.Exit(1 if bad else 0)


def _fetch(model: ModelSource, tell: Callable[[str], None]) -> Path:
    """Fetch a model in a process of its own, whose libraries' chatter goes to a file."""
    from quantxai.errors import MissingExtra, ModelError
    from quantxai.jobs import FetchParent
    from quantxai.machine import cores, has_packages
    from quantxai.models import cache_directory
    from quantxai.workers import Job, Message, run_jobs

    for package in has_packages(("torch", "transformers", "gguf")):
        raise MissingExtra(package, "models", f"fetching the model '{model.name}'")
    found: dict[str, Any] = {}

    def handle(_: Job, message: Message) -> None:
        kind, value = message
        if kind == "line":
            tell(value)
        else:
            found[kind] = value

    cache_directory().mkdir(parents=True, exist_ok=True)
    run_jobs([FetchParent("model", cores(), model, ())], 1, handle, cache_directory() / "pull.log")
    for kind in ("failed", "died"):
        if kind in found:
            raise ModelError(str(found[kind][1]))
    return Path(found["value"])


def _entries(kind: str) -> list[dict[str, Any]]:
    from quantxai.datasets import dataset_names, dataset_tasks
    from quantxai.errors import UnknownName
    from quantxai.options import describe

    if kind == "datasets":
        tasks = dataset_tasks()
        return [{"name": k, "summary": v, "task": tasks[k]} for k, v in dataset_names().items()]
    if kind == "quantizers":
        return describe("quantizer")
    if kind == "explainers":
        return describe("explainer")
    if kind == "scorers":
        return describe("scorer")
    raise UnknownName("kind of thing to list", kind, KINDS)


def _entry_text(entry: dict[str, Any]) -> str:
    from quantxai.options import toml_value

    source = entry.get("distribution", "quantxai")
    own = source == "quantxai"
    lines = [wrapped(entry["summary"] + ("" if own else f" (from {source})"), 16, entry["name"])]
    if "task" in entry:
        lines.append(wrapped(f"for {entry['task']}", 16))
    if "tasks" in entry:
        lines.append(wrapped(f"works on data for {', '.join(entry['tasks'])}", 16))
    if "explainers" in entry:
        lines.append(wrapped(f"reads the rows of {', '.join(entry['explainers'])}", 16))
    for option in entry.get("options", []):
        default = "not set" if option["default"] is None else toml_value(option["default"])
        lines.append(wrapped(f"{option['help']} ({option['values']})", 30, f"  {option['name']} = {default}"))
    for metric in entry.get("metrics", []):
        lines.append(wrapped(f"{metric['description']} ({_reading(metric)})", 30, f"  {metric['name']}"))
    return "\n".join(lines) + ("\n" if len(lines) > 1 else "")


def _reading(metric: dict[str, Any]) -> str:
    """Return how a metric is read: unit, direction, what counts as no change, whether it is confirmatory."""
    better = metric["higher_is_better"]
    if better is None:
        return f"{metric['unit']}, describes only"
    direction = f"{'higher' if better else 'lower'} is better"
    confirmatory = ", confirmatory" if metric["confirmatory"] else ""
    return f"{metric['unit']}, {direction}, equivalent within {metric['margin']:g}{confirmatory}"


def _print_models(as_json: bool) -> None:
    from quantxai.models import MODELS, resolve

    found = [(model, resolve(name)) for name, model in MODELS.items()]
    if as_json:
        print_json([{**m.model_dump(), "path": str(r.path) if r.path else None} for m, r in found])
        return
    for model, resolved in found:
        state = (
            f"fetched: {resolved.path}" if resolved.path else f"not fetched ({size(model.download_bytes)})"
        )
        typer.echo(
            wrapped(f"{model.parameters / 1e6:.0f} M parameters, {model.licence}, {state}", 16, model.name)
        )
        typer.echo(wrapped(model.note, 16))
    typer.echo("\nAny local directory (as save_pretrained writes it) and any Hub id works in their place.")
