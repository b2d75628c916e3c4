"""A prompt read off a parent and its variants: fetched, quantized and cached exactly as a sweep does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantxai import machine
from quantxai.checkpoints import load_tokenizer
from quantxai.config import SweepConfig, parse_config
from quantxai.errors import InputError, UnknownName
from quantxai.jobs import FetchParent, open_lm
from quantxai.lens import Lens, Token, first_token, layer_log_probs, make_reading, place, token_text
from quantxai.models import cache_directory, resolve
from quantxai.preparation import prepare
from quantxai.variants import Variant, check_packages, resolve_variants
from quantxai.workers import Job, Send, in_own_process, run_job

if TYPE_CHECKING:
    from quantxai.run import Progress

__all__ = ["ReadLens", "inspect"]


def inspect(
    prompt: str,
    variants: Sequence[str] = (),
    *,
    config: SweepConfig | None = None,
    token: str | None = None,
    position: int = -1,
    top: int = 3,
    progress: Progress | None = None,
) -> Lens:
    """Read a prompt off a model and its variants, layer by layer.

    The parent is read first, so that what cannot be read is known before anything is quantized.

    Args:
        prompt: the text.
        variants: names of variants of the configuration; the parent comes first without being named.
        config: names the model and describes the variants; the default sweep where left out.
        token: the text whose first token is followed through the layers; the parent's prediction where
            left out.
        position: which token of the prompt is read, from 0; negative ones count from the end.
        top: how many tokens are kept of each layer.
        progress: told how it goes.

    Raises:
        InputError: something asked for does not exist or cannot be done.
        ModelError: a model cannot be made or read.
    """
    if not prompt:
        raise InputError("the prompt is empty; give the text whose continuation is to be looked at")
    config = (config or parse_config({})).model_copy(update={"engine": "transformers"})
    source = resolve(config.model.name, config.model.revision)
    chosen = _chosen(resolve_variants(config, source), config.parent.name, variants)
    check_packages(chosen)
    cache_directory().mkdir(parents=True, exist_ok=True)
    log = cache_directory() / "inspect.log"
    log.unlink(missing_ok=True)
    report = None if progress is None else progress.line
    path = run_job(FetchParent("model", machine.cores(), source, chosen), log, report)
    job = ReadLens(
        "inspect",
        machine.cores(),
        chosen,
        path,
        config.batch_tokens,
        prompt,
        token,
        position,
        top,
    )
    lens: Lens = run_job(job, log, report)
    return lens


def _chosen(found: list[Variant], parent: str, names: Sequence[str]) -> list[Variant]:
    """Return the parent and the named variants, each once, in the order named.

    Raises:
        UnknownName: there is no variant of a name.
    """
    by_name = {variant.name: variant for variant in found}
    for name in names:
        if name not in by_name:
            raise UnknownName("variant", name, by_name)
    return [by_name[name] for name in dict.fromkeys([parent, *names])]


@dataclass(frozen=True)
class ReadLens(Job):
    """Read a prompt off variants, the parent first, each in a process of its own."""

    variants: Sequence[Variant]
    parent: Path
    batch_tokens: int
    prompt: str
    token: str | None
    position: int
    top: int

    def __call__(self, send: Send) -> None:
        """See Job."""
        tokenizer = load_tokenizer(self.parent)

        def text_of(token: int) -> str:
            return token_text(tokenizer, token)

        parent, notes, asked = self.variants[0], list[str](), None
        if self.token is not None:
            asked, notes = first_token(tokenizer, self.token, self.prompt)
        send("line", f"{parent.name}: reading the prompt layer by layer")
        tokens, position, base = in_own_process(_read, self, parent)
        followed = int(base[-1].argmax()) if asked is None else asked
        readings = [make_reading(base, followed, text_of, top=self.top, **_facts(parent))]
        for variant in self.variants[1:]:
            receipt = prepare(variant, self.parent, lambda text: send("line", text), in_own_process)
            send("line", f"{variant.name}: reading the prompt layer by layer")
            scores, facts = in_own_process(_read, self, variant)[2], _facts(variant, receipt["warnings"])
            readings.append(make_reading(scores, followed, text_of, parent=base, top=self.top, **facts))
        lens = Lens(
            model=parent.model.name,
            prompt=self.prompt,
            tokens=tuple(Token(token=token, text=text_of(token)) for token in tokens),
            position=position,
            followed=Token(token=followed, text=text_of(followed)),
            readings=tuple(readings),
            notes=tuple(notes),
        )
        send("value", lens)


def _facts(variant: Variant, warnings: Sequence[str] = ()) -> dict[str, Any]:
    """What a reading says of how it was made."""
    return {
        "variant": variant.name,
        "digest": variant.digest,
        "dtype": variant.dtype,
        "device": variant.device,
        "execution": variant.execution,
        "warnings": tuple(warnings),
    }


def _read(job: ReadLens, variant: Variant) -> tuple[list[int], int, Any]:
    """Return the prompt's tokens, which of them is read, and what every layer says of what follows it."""
    lm = open_lm(variant, job.parent, job.batch_tokens)
    internals = lm.internals()
    tokens = internals.tokens(job.prompt)
    if len(tokens) > lm.context:
        raise InputError(
            f"the prompt has {len(tokens)} tokens, more than the model's context of {lm.context}; shorten it"
        )
    position = place(job.position, len(tokens))
    return tokens, position, layer_log_probs(internals, job.prompt, position)
