"""With what a call says who makes it: an API key or a session token, sent as `authorization: Bearer <token>`."""

from __future__ import annotations

from contextvars import ContextVar

bearer_token: ContextVar[str] = ContextVar("bearer_token", default="")
"""Of the calls made in this context (an asyncio task, a thread); empty: the process's own."""

_of_process = ""


def use_api_key(key: str) -> None:
    """Every call of this process that has no token of its own carries this key from now on."""
    global _of_process
    _of_process = key


def current_token() -> str:
    """What a call made here and now carries; empty: nothing."""
    return bearer_token.get() or _of_process
