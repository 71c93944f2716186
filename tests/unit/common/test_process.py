"""Cores, threads, and processes that die together."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor.common.errors import InvalidInput, PreceptorError
from preceptor.common.process import kill_group, parse_cores
from preceptor.common.waiting import wait_until


@pytest.mark.parametrize(
    ("text", "cores"), [("", set()), ("0", {0}), ("0-2", {0, 1, 2}), ("0-1, 3", {0, 1, 3}), ("2,2,", {2})]
)
def test_core_lists_are_read(text: str, cores: set[int]) -> None:
    assert parse_cores(text) == cores


@pytest.mark.parametrize("text", ["a", "1-", "-1", "3-1", "0;1", "1.5"])
def test_a_wrong_core_list_names_the_part(text: str) -> None:
    with pytest.raises(InvalidInput, match="is no core number or range"):
        parse_cores(text)


@given(st.text(max_size=12))
def test_no_core_list_raises_anything_but_our_error(text: str) -> None:
    with contextlib.suppress(PreceptorError):
        parse_cores(text)


def _python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_cpu_plan_binds_the_process_and_its_threads() -> None:
    core = min(os.sched_getaffinity(0))
    out = _python(
        f"""
        import os
        from preceptor.common.process import apply_cpu_plan
        print(apply_cpu_plan("{core}", 2), os.environ["OMP_NUM_THREADS"])
        """
    )
    assert out == f"{{{core}}} 2"


def test_an_empty_cpu_plan_changes_nothing() -> None:
    out = _python(
        """
        import os
        from preceptor.common.process import apply_cpu_plan
        before = os.sched_getaffinity(0), dict(os.environ)
        apply_cpu_plan("", 0)
        print(before == (os.sched_getaffinity(0), dict(os.environ)))
        """
    )
    assert out == "True"


def test_a_core_that_does_not_exist_is_named() -> None:
    out = _python(
        """
        from preceptor.common.errors import InvalidInput
        from preceptor.common.process import apply_cpu_plan
        try:
            apply_cpu_plan("4096", 0)
        except InvalidInput as error:
            print(error)
        """
    )
    assert out.startswith("core 4096 is not available to this process: choose among [")


_CHILD = """
import os, sys, threading
from preceptor.common.process import die_with_parent
die_with_parent(int(sys.argv[1]) if len(sys.argv) > 1 else None)
open({ready!r}, "w").write(str(os.getpid()))
threading.Event().wait(120)
"""


def test_a_child_dies_with_its_killed_parent(tmp_path: Path) -> None:
    ready = tmp_path / "pid"
    child = _CHILD.format(ready=str(ready))
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    parent = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: ready.exists() and ready.read_text(), 20, "the child")
    child_pid = int(ready.read_text())
    parent.kill()
    parent.wait()
    wait_until(lambda: _gone(child_pid), 5, "the child to die")


def test_a_child_whose_parent_is_gone_already_ends_at_once(tmp_path: Path) -> None:
    child = _CHILD.format(ready=str(tmp_path / "pid"))
    result = subprocess.run([sys.executable, "-c", child, "1"], check=False)
    assert result.returncode == -signal.SIGKILL
    assert not (tmp_path / "pid").exists()


def test_killing_a_group_takes_the_grandchildren(tmp_path: Path) -> None:
    ready = tmp_path / "pid"
    code = f"""
import subprocess, sys, threading
from preceptor.common.process import new_process_group
assert new_process_group() == new_process_group()
child = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait(120)"])
open({str(ready)!r}, "w").write(str(child.pid))
threading.Event().wait(120)
"""
    leader = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: ready.exists() and ready.read_text(), 20, "the grandchild")
    grandchild = int(ready.read_text())
    assert os.getpgid(grandchild) == leader.pid
    assert kill_group(leader.pid)
    leader.wait(5)
    wait_until(lambda: _gone(grandchild), 5, "the grandchild to die")


def test_a_group_that_does_not_exist_is_no_error() -> None:
    leader = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    leader.wait(20)
    assert not kill_group(leader.pid)


@pytest.mark.parametrize("pgid", [0, 1, -5, os.getpgrp()])
def test_a_group_that_would_take_us_along_is_refused(pgid: int) -> None:
    with pytest.raises(ValueError, match="refusing to signal"):
        kill_group(pgid)


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
