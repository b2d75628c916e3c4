"""The app that participants use: Gradio inside FastAPI, and all state in the database."""

from __future__ import annotations

from userstudy.app.server import create_app

__all__ = ["create_app"]
