"""The app that participants use: Gradio inside FastAPI, and all state in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from userstudy.app.server import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    """Give `create_app`; only then is Gradio imported, which takes seconds."""
    if name != "create_app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from userstudy.app.server import create_app

    return create_app
