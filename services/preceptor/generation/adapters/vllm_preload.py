"""What the fork server imports, so that EngineCore and Worker start with vLLM in memory. Importing it takes seconds.

Measured on two cores, from start to first token: 38 s with vLLM's own spawn (it imports itself three times in a row),
9 s so.
"""

import multiprocessing
import os

from preceptor.common.process import die_with_parent
from preceptor.generation.adapters.vllm_plugin import ENGINE_MARK

die_with_parent(
    int(os.environ[ENGINE_MARK])
)  # by itself a fork server notices its starter's end only once all below is imported

import vllm.model_executor.model_loader  # noqa: E402
import vllm.model_executor.models.registry  # noqa: E402
import vllm.v1.engine.core  # noqa: E402
import vllm.v1.executor.multiproc_executor as executor  # noqa: E402
import vllm.v1.worker.cpu_worker  # noqa: E402
import vllm.v1.worker.gpu_model_runner  # noqa: E402, F401


def _fork_context() -> multiprocessing.context.BaseContext:
    return multiprocessing.get_context("fork")


# EngineCore itself forks its worker: it is a plain child of the fork server, with no gRPC, no OpenMP pool and no CUDA.
setattr(executor, "get_mp_context", _fork_context)  # noqa: B010  vLLM does not export it
