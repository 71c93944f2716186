"""The console's application over doubles, called in process."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from preceptor.console.config import ConsoleSettings
from preceptor.console.server import create_app
from tests.unit.console.doubles import FeedbackDouble, LoopDouble, console


@pytest.fixture
def feedback() -> FeedbackDouble:
    return FeedbackDouble()


@pytest.fixture
def loops() -> LoopDouble:
    return LoopDouble()


@pytest.fixture
def settings(tmp_path: Path) -> ConsoleSettings:
    return ConsoleSettings(artifacts_url=tmp_path.as_uri(), max_body_bytes=4096)


@pytest.fixture
async def client(
    feedback: FeedbackDouble, loops: LoopDouble, settings: ConsoleSettings
) -> AsyncIterator[httpx.AsyncClient]:
    """A well-behaved program: names itself and comes from no other site."""
    app = create_app(console(feedback, loops), settings)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    headers = {"X-Preceptor-Client": "test/1"}
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8080", headers=headers) as made:
        yield made
