"""What the fork server imports, so that EngineCore and Worker start with vLLM in memory. Importing it takes seconds.

Measured on two cores, from start to first token: 38 s with vLLM's own spawn (it imports itself three times in a row),
9 s so.
"""

import atexit
import multiprocessing
import os

import vllm.model_executor.model_loader
import vllm.model_executor.models.registry
import vllm.v1.engine.core
import vllm.v1.executor.multiproc_executor as executor
import vllm.v1.worker.cpu_worker
import vllm.v1.worker.gpu_model_runner  # noqa: F401


def _fork_context() -> multiprocessing.context.BaseContext:
    return multiprocessing.get_context("fork")


# EngineCore itself forks its worker: it is a plain child of the fork server, with no gRPC, no OpenMP pool and no CUDA.
setattr(executor, "get_mp_context", _fork_context)  # noqa: B010  vLLM does not export it

# When the generator ends, so does the fork server: at once, not after the seconds that tearing torch down takes.
atexit.register(os._exit, 0)
