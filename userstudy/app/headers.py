"""The headers that tell a browser what these pages may do."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

__all__ = ["NO_SCRIPT", "SECURITY", "Headed", "content_security_policy", "inline_scripts"]

SECURITY: dict[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the participant's link is the address
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=(), browsing-topics=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Robots-Tag": "noindex, nofollow",
}
"""Sent with every response."""

NO_SCRIPT = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""Of pages that are markup and one style sheet: the admin's."""

_DROPPED = ("access-control-", "server", "x-powered-by")
"""Not for others to know or to use."""
_INLINE = re.compile(rb"<script(?![^>]*\ssrc\s*=)[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)


def _hash(script: bytes) -> str:
    """Return how a policy names an inline script: by its SHA-256."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"


def inline_scripts(page: bytes) -> list[bytes]:
    """Return the inline scripts of a page, as they stand between their tags."""
    return _INLINE.findall(page)


def content_security_policy(scripts: Iterable[bytes], frame_ancestors: str) -> str:
    """Return the policy of the participant's page, as strict as Gradio works with.

    Only the inline scripts the server itself wrote run (by hash), so that markup that slipped through
    could start nothing. Gradio compiles the code of its events in the browser, hence 'unsafe-eval', and
    sets styles on elements, hence 'unsafe-inline' for styles. Nothing is loaded from, or sent to,
    another host.

    Args:
        scripts: the page's inline scripts.
        frame_ancestors: who may embed the page: 'none', or origins.
    """
    allowed = " ".join(dict.fromkeys(_hash(script) for script in scripts))
    return "; ".join(
        (
            "default-src 'self'",
            f"script-src 'self' 'unsafe-eval' {allowed}".rstrip(),
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data:",
            "font-src 'self' data:",
            "connect-src 'self'",
            "worker-src 'none'",
            "frame-src 'none'",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'self'",
            f"frame-ancestors {frame_ancestors}",
        )
    )


class Headed:
    """Sends an answer with the headers that every one has.

    Args:
        send: where to.
        lasting: whether the answer, where it is a good one, may be kept by the browser.
    """

    def __init__(self, send: Send, *, lasting: bool) -> None:
        self._send = send
        self._lasting = lasting

    async def __call__(self, message: Message) -> None:
        """Send one message."""
        if message["type"] == "http.response.start":
            pairs = message.get("headers", [])
            message["headers"] = [p for p in pairs if not p[0].decode("latin-1").lower().startswith(_DROPPED)]
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY.items():
                headers.setdefault(name, value)
            lasting = self._lasting and message["status"] == 200
            headers["Cache-Control"] = "public, max-age=86400" if lasting else "no-store"
            headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        await self._send(message)
