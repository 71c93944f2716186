"""How the engine's processes come to life on CPU: forked from a server that has vLLM imported already."""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.forkserver

_PRELOAD = "preceptor.generation.adapters.vllm_preload"


def start_fork_server() -> None:
    """Starts the process that imports vLLM while this one does other things.

    Call after `vllm_env.prepare`, from the main thread: the fork server ends with the thread that started it.
    """
    multiprocessing.set_forkserver_preload([_PRELOAD])
    multiprocessing.forkserver.ensure_running()


def use_fork_server() -> None:
    """Makes vLLM start its engine through the fork server instead of spawning it."""
    engine_utils = importlib.import_module("vllm.v1.engine.utils")
    if hasattr(engine_utils, "get_mp_context"):  # else a vLLM that starts its engine otherwise: slower, still right
        setattr(engine_utils, "get_mp_context", _fork_server_context)  # noqa: B010  vLLM does not export it


def _fork_server_context() -> multiprocessing.context.BaseContext:
    return multiprocessing.get_context("forkserver")
