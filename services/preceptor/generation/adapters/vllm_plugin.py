"""Runs in every vLLM process that a generator starts (entry point group "vllm.general_plugins").

A generator that dies by SIGKILL cannot tell its engine: without this, EngineCore and Worker live on for a minute and
more, with the model in memory. vLLM programs of others in the same environment are left alone.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import os
import sys
import threading

from preceptor.common.process import die_with_parent

ENGINE_MARK = "PRECEPTOR_GENERATION_ENGINE_OF"  # pid of the generator; set by vllm_env, inherited
THREADS_MARK = "PRECEPTOR_GENERATION_ENGINE_THREADS"  # set by vllm_env for CPU engines
_watched = False


def register() -> None:
    """Ties this process to its parent, once, if a generator started it."""
    parent = multiprocessing.parent_process()
    if parent is None or ENGINE_MARK not in os.environ:
        return
    global _watched
    if not _watched:
        _watched = True
        tie_to(parent)
        _use_threads()


def tie_to(parent: multiprocessing.process.BaseProcess) -> None:
    """Ends this process when `parent` ends, or at once if it has.

    The kernel's parent-death signal is immediate, but follows whoever forked us, which may be a fork server; the pipe
    that `parent` holds open follows the parent itself, whichever way this process was started.
    """
    threading.Thread(target=_follow, args=(parent,), name="preceptor-parent-watch", daemon=True).start()
    die_with_parent()


def _follow(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _use_threads() -> None:
    # The fork server imports torch with one thread, for OpenMP's pool does not survive a fork. The worker, the only
    # process that computes, takes its share here, before its first parallel region.
    threads = int(os.environ.get(THREADS_MARK, "0"))
    torch = sys.modules.get("torch")
    if threads > 1 and torch is not None and "Worker" in multiprocessing.current_process().name:
        torch.set_num_threads(threads)
