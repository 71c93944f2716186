"""`preceptor train rl` takes what it started down, also when it is told to end by SIGTERM."""

import signal
from pathlib import Path

import pytest

from tests.e2e.rl_system import RlSystem, left_over


@pytest.mark.slow
def test_sigterm_ends_it_as_ctrl_c_does(tmp_path: Path) -> None:
    system = RlSystem(tmp_path, port_base=17000)
    system.start()
    try:
        up = tmp_path / "home" / "supervisor" / "supervisor.sock"
        system.wait(lambda: up.exists() and system.stack.supervisor.is_running() and system.pid("redis"), 60, "Redis")
        system.signal(signal.SIGTERM)
        assert system.join() == 130, system.explain("another exit code")
        assert left_over(system.home) == []
    finally:
        system.end()
