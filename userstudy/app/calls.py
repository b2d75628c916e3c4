"""The one kind of call the page makes to Gradio: read with care, and passed on in a fixed shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["BadCall", "Call", "read_call"]

_DEPTH = 6
"""Levels of nesting in what a component sends; the page's own calls have two."""
_VALUES = 2_000
"""Values in one call."""
_LARGEST = 2**53
"""Integers beyond it are not exact in a browser, so the page never sends one."""


class BadCall(Exception):
    """A call the page does not make."""


@dataclass(frozen=True)
class Call:
    """One call of the page.

    Args:
        function: index of the event handler.
        token: the participant's, which by agreement is a handler's first input; empty where there is none.
        body: what Gradio gets, JSON.
    """

    function: int
    token: str
    body: bytes


def read_call(body: bytes, functions: Mapping[int, int]) -> Call:
    """Return a call with what the page needs and nothing else.

    The session's hash is left out, so that Gradio keeps no state between two calls, in whichever process
    they arrive; so is what queues, batches and sign-ins would use.

    Args:
        body: the JSON as sent.
        functions: number of inputs of each of the page's own event handlers, by its index.

    Raises:
        BadCall: it is no JSON, too deep or too much, or calls what is not the page's.
    """
    try:
        call = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise BadCall("not JSON") from None
    if not isinstance(call, dict):
        raise BadCall("not an object")
    function, data = call.get("fn_index"), call.get("data")
    if type(function) is not int or function not in functions:
        raise BadCall("no such function")
    if not isinstance(data, list) or len(data) != functions[function]:
        raise BadCall("other inputs than the page sends")
    left = [_VALUES]
    clean = {"fn_index": function, "data": _clean(data, _DEPTH, left)}
    if call.get("event_data") is not None:
        clean["event_data"] = _clean(call["event_data"], _DEPTH, left)
    first = clean["data"][0] if data else ""
    return Call(function, first if isinstance(first, str) else "", json.dumps(clean).encode())


def _clean(value: Any, depth: int, left: list[int]) -> Any:
    """Return a value without what no table can hold: halves of surrogate pairs and the character NUL."""
    left[0] -= 1
    if depth < 0 or left[0] < 0:
        raise BadCall("too deep or too much")
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "")
    if isinstance(value, list):
        return [_clean(entry, depth - 1, left) for entry in value]
    if isinstance(value, dict):
        return {_clean(key, 0, left): _clean(entry, depth - 1, left) for key, entry in value.items()}
    # Infinity too: JSON's 1e999 is read as one.
    if isinstance(value, (int, float)) and not abs(value) <= _LARGEST:
        raise BadCall("too large a number")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(name)
