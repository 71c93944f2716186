"""Fixtures that every part's tests share."""

import os

# Tests start processes while gRPC runs in this one; its fork handlers have aborted such a child.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from preceptor.common.artifacts import ArtifactStore
from tests.support.redis import RedisProcess


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """The session's Redis. A test that kills one starts its own RedisProcess."""
    with RedisProcess(tmp_path_factory.mktemp("redis")) as process:
        yield process


@pytest.fixture
def redis_url(redis_process: RedisProcess) -> str:
    """The address of a real Redis, emptied before the test."""
    with redis.Redis.from_url(redis_process.url) as client:
        client.flushall()
    return redis_process.url


@pytest.fixture
def artifacts_url(tmp_path: Path) -> str:
    return (tmp_path / "artifacts").as_uri()


@pytest.fixture
def artifacts(artifacts_url: str) -> ArtifactStore:
    """A store in a folder of the test's own."""
    return ArtifactStore(artifacts_url)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """CI sets PRECEPTOR_FAIL_ON_SKIP: there everything that a test may need is installed, so nothing may be skipped."""
    if report.skipped and os.environ.get("PRECEPTOR_FAIL_ON_SKIP") and not hasattr(report, "wasxfail"):
        _skipped.append(f"{report.nodeid}: {report.longrepr}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _skipped:
        terminalreporter.write_line(f"SKIPPED, which fails this run: {line}", red=True)


_skipped: list[str] = []
