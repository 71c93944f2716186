import ctypes
import multiprocessing
import os
import subprocess
import sys

import psutil
import pytest

from preceptor.common.errors import FailedPrecondition
from preceptor.generation.adapters import vllm_env, vllm_plugin
from preceptor.generation.adapters.vllm_env import Build

_PARENT = """
import multiprocessing, time
from preceptor.generation.adapters import vllm_plugin

def child(pipe):
    vllm_plugin.tie_to(multiprocessing.parent_process())
    pipe.send(0)
    time.sleep(60)

if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        ours, theirs = context.Pipe()
        process = context.Process(target=child, args=(theirs,))
        process.start()
        ours.recv()
        print(process.pid, flush=True)
    print("ready", flush=True)
    time.sleep(60)
"""


def test_children_end_with_a_killed_parent_however_they_were_started(tmp_path: object) -> None:
    script = f"{tmp_path}/parent.py"
    with open(script, "w") as file:
        file.write(_PARENT)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        lines = [parent.stdout.readline().strip() for _ in range(4)]
        assert lines[-1] == "ready"
        children = [psutil.Process(int(line)) for line in lines[:-1]]
        parent.kill()
        _, alive = psutil.wait_procs(children, timeout=5)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


def test_vllm_programs_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(vllm_plugin.ENGINE_MARK, raising=False)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: object())
    vllm_plugin.register()
    assert not vllm_plugin._watched


def test_a_missing_libnuma_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(FailedPrecondition, match="apt-get install libnuma1"):
        vllm_env.check_libraries(Build("0.32.0", cpu=True))
    vllm_env.check_libraries(Build("0.33.0", cpu=False))


def test_the_installed_build_is_found() -> None:
    assert vllm_env.installed_build().version


def test_the_engines_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environ)
    try:
        monkeypatch.setenv("LD_PRELOAD", "/mine/libiomp5.so")
        vllm_env.prepare(Build("0.32.0", cpu=True), threads=3, eager=True, log_level="ERROR")
        assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
        assert os.environ[vllm_plugin.THREADS_MARK] == "3"
        assert os.environ["TORCHDYNAMO_DISABLE"] == "1"
        assert os.environ["LD_PRELOAD"].split(":")[0] == "/mine/libiomp5.so"
        assert "libgomp" not in os.environ["LD_PRELOAD"]
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_on_a_gpu_nothing_of_the_cpus_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environ)
    try:
        for name in ("OMP_NUM_THREADS", "TORCHDYNAMO_DISABLE", "LD_PRELOAD"):
            monkeypatch.delenv(name, raising=False)
        vllm_env.prepare(Build("0.33.0", cpu=False), threads=3, eager=False, log_level="ERROR")
        assert not {"OMP_NUM_THREADS", "TORCHDYNAMO_DISABLE", "LD_PRELOAD"} & set(os.environ)
    finally:
        os.environ.clear()
        os.environ.update(before)
