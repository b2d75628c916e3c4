"""Findings as CSV and JSON, with every field and at full precision."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from quantxai.exports.results import Results
from quantxai.records import Finding

__all__ = ["to_csv", "to_json"]


def to_csv(findings: Sequence[Finding]) -> str:
    """Return findings as CSV: a header of the fields of `Finding`, then a row each; no value is an empty field."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(Finding.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(json.loads(finding.model_dump_json()) for finding in findings)
    return stream.getvalue()


def to_json(results: Results) -> str:
    """Return everything found as JSON: lists of records under a header that says what they rest on."""
    manifest = results.manifest
    document: dict[str, Any] = {
        "format": 1,
        "run": results.run,
        "created": manifest.created,
        "quantxai": manifest.quantxai,
        "model": manifest.model,
        "parent": manifest.parent,
        "variants": results.variants,
        "controls": results.controls,
        "analysis": manifest.analysis,
        "plan": {
            "planned": results.plan.planned,
            "status": results.plan.sentence,
            "digest": results.plan.digest,
            "created": results.plan.created,
        },
        "caveats": results.caveats,
        "findings": [json.loads(record.model_dump_json()) for record in results.findings],
        "trends": [json.loads(record.model_dump_json()) for record in results.trends],
        "replicated": [json.loads(record.model_dump_json()) for record in results.replicated],
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
