"""The generation server's peer: vLLM's AsyncLLM with nothing around it, in a process of its own.

`python -m preceptor.cli.bench.bare_engine`, with the generation server's settings in the environment: the same model,
engine options and process environment.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from preceptor.cli.bench.processes import Answering
from preceptor.cli.bench.streams import StreamLoad, measure
from preceptor.common.config import load_settings
from preceptor.generation.__main__ import prepare
from preceptor.generation.config import GenerationSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from vllm.v1.engine.async_llm import AsyncLLM

    from preceptor.generation.adapters.vllm_engine import EngineOptions


def main() -> None:
    """Builds the engine, then answers each request, a StreamLoad, with what it gave."""
    answering = Answering()
    settings = load_settings(GenerationSettings)
    options = prepare(settings)
    assert settings.model_dir is not None  # the bench gives a folder, never a run
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        llm = runner.run(_build(settings.model_dir, options))
        writer = BareWriter(llm)
        try:
            runner.run(measure(writer.write, StreamLoad(1, 1, 8, 1, True, 0)))  # as the server warms up
            for request in answering.requests():
                taken = runner.run(measure(writer.write, StreamLoad(**request)))
                answering.reply(dataclasses.asdict(taken))
        finally:
            llm.shutdown()


class BareWriter:
    """Streams completions of one engine."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm
        self._ids = itertools.count()

    async def write(self, prompt: list[int], load: StreamLoad) -> AsyncIterator[int]:
        """See streams.Write. The parameters are those that the server gives for the same request."""
        from vllm.inputs.engine import tokens_input

        from preceptor.common.completions import Sampling
        from preceptor.generation.adapters.vllm_requests import parameters_of

        parameters = parameters_of(Sampling(max_tokens=load.tokens), piece_tokens=load.interval)
        async for output in self._llm.generate(tokens_input(prompt), parameters, f"{next(self._ids)}"):
            yield len(output.outputs[0].token_ids)


async def _build(model_dir: Path, options: EngineOptions) -> AsyncLLM:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from preceptor.generation.adapters.vllm_engine import stored_dtype

    dtype: Any = stored_dtype(model_dir)
    return AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=str(model_dir),
            dtype=dtype,
            max_model_len=options.max_model_len,
            max_num_seqs=options.max_num_seqs,
            enforce_eager=options.enforce_eager,
            enable_chunked_prefill=options.chunked_prefill,
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            disable_log_stats=True,
            use_tqdm_on_load=False,
            kv_cache_memory_bytes=int(options.kv_cache_gib * 1024**3),
        )
    )


if __name__ == "__main__":
    main()
