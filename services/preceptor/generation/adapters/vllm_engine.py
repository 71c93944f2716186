"""vLLM's AsyncLLM as the service's engine."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preceptor.common.completions import Sampling, VersionSpan
from preceptor.common.errors import FailedPrecondition
from preceptor.generation.adapters.codec import TokenizerCodec
from preceptor.generation.adapters.start_method import start_fork_server, use_fork_server
from preceptor.generation.adapters.vllm_env import Build
from preceptor.generation.adapters.vllm_requests import collect, parameters_of
from preceptor.generation.engine import EngineDead, LoadError, OnPiece, Piece
from preceptor.generation.types import Limits

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

_GIB = 1024**3
_DEATH_POLL_S = 0.25
_WORKER_EXTENSION = "preceptor.generation.adapters.worker_extension.WeightExtension"


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How the engine is built; 0 and "" leave the choice to vLLM."""

    build: Build
    dtype: str
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_cache_gib: float
    enforce_eager: bool
    chunked_prefill: bool
    seed: int
    tensor_parallel_size: int = 1


class VllmEngine:
    """Sampler and LiveWeights on one AsyncLLM, whose engine runs in processes of its own.

    Args:
        options: see EngineOptions.
    """

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._llm: AsyncLLM | None = None
        self._codec: TokenizerCodec | None = None
        self._limits: Limits | None = None
        self._ids = itertools.count()
        self._running: set[str] = set()
        self._given_up = ""
        self._started = False
        # Lives as long as the process: the kernel ties children to the thread that started them.
        self._thread = ThreadPoolExecutor(1, "vllm-start")

    @property
    def codec(self) -> TokenizerCodec:
        assert self._codec is not None, "the engine has not started"
        return self._codec

    @property
    def limits(self) -> Limits:
        assert self._limits is not None, "the engine has not started"
        return self._limits

    async def warm_imports(self) -> None:
        """Imports vLLM (seconds), here and in the fork server at the same time, so that `start` need not.

        Call from the main thread.
        """
        if self._options.build.cpu:
            start_fork_server()
        await asyncio.get_running_loop().run_in_executor(self._thread, _import_vllm)

    async def start(self, model_dir: Path, version: int) -> None:
        """Loads a model and serves it as `version`.

        Raises:
            FailedPrecondition: vLLM refuses the model or the options.
        """
        loop = asyncio.get_running_loop()
        self._llm = await loop.run_in_executor(self._thread, self._build, model_dir)
        config = self._llm.vllm_config
        tokenizer = self._llm.get_tokenizer()
        self._codec = TokenizerCodec(tokenizer)
        self._limits = Limits(
            max_model_len=config.model_config.max_model_len,
            vocab_size=config.model_config.get_vocab_size(),
            seeds=not (self._options.build.cpu and config.scheduler_config.enable_chunked_prefill),
        )
        await self.commit(version)
        await self._warm_up(model_dir)
        self._started = True

    async def _warm_up(self, model_dir: Path) -> None:
        try:
            await self.sample([0], Sampling(max_tokens=1), cache_salt="warm-up")
        except EngineDead as error:
            raise FailedPrecondition(
                f"vLLM's engine died on the first token of {model_dir}: its log says why. On CPU, attention takes "
                "heads of 32, 64, 80, 96, 112, 128, 160, 192, 224, 256 or 512 only",
                reason="ENGINE_START",
            ) from error

    def _build(self, model_dir: Path) -> AsyncLLM:
        from vllm.v1.engine.async_llm import AsyncLLM

        if self._options.build.cpu:
            use_fork_server()
        try:
            return AsyncLLM.from_engine_args(self._engine_args(model_dir))
        except (ValueError, RuntimeError, OSError, NotImplementedError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise FailedPrecondition(f"vLLM cannot serve {model_dir}: {lines[0]}", reason="ENGINE_START") from error

    def _engine_args(self, model_dir: Path) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs

        options = self._options
        arguments: dict[str, Any] = {
            "model": str(model_dir),
            "dtype": stored_dtype(model_dir) if options.dtype == "auto" else options.dtype,
            "seed": options.seed,
            "max_num_seqs": options.max_num_seqs,
            "enforce_eager": options.enforce_eager,
            "enable_chunked_prefill": options.chunked_prefill,
            "enable_prefix_caching": True,
            "logprobs_mode": "processed_logprobs",
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
            "worker_extension_cls": _WORKER_EXTENSION,
            "tensor_parallel_size": options.tensor_parallel_size,
        }
        if options.max_model_len:
            arguments["max_model_len"] = options.max_model_len
        if options.max_num_batched_tokens:
            arguments["max_num_batched_tokens"] = options.max_num_batched_tokens
        kv_cache_gib = options.kv_cache_gib or (1.0 if options.build.cpu else 0.0)
        if kv_cache_gib:
            # With its size given, vLLM runs no profiling pass.
            arguments["kv_cache_memory_bytes"] = int(kv_cache_gib * _GIB)
        return AsyncEngineArgs(**arguments)

    async def sample(
        self,
        token_ids: Sequence[int],
        sampling: Sampling,
        *,
        cache_salt: str,
        on_piece: OnPiece | None = None,
        piece_tokens: int = 1,
        decode_pieces: bool = True,
    ) -> Piece:
        """See Sampler."""
        from vllm.inputs.engine import tokens_input

        llm = self._alive()
        request_id = f"{next(self._ids)}"
        # A rendered input, unlike a raw one, is registered without giving up the event loop: so a request with an
        # old salt cannot slip in between a commit and release_unstarted.
        prompt = tokens_input(list(token_ids), cache_salt=cache_salt)
        piece_tokens_or_whole = None if on_piece is None else piece_tokens
        parameters = parameters_of(sampling, piece_tokens=piece_tokens_or_whole, decode=decode_pieces)
        outputs = llm.generate(prompt, parameters, request_id)
        self._running.add(request_id)
        try:
            piece = await collect(outputs, on_piece, lambda tokens: self._spans_so_far(request_id, tokens))
        finally:
            self._running.discard(request_id)
        # The engine says "" for what it did not decode.
        return piece if parameters.detokenize else replace(piece, text=None)

    def _spans_so_far(self, request_id: str, tokens: int) -> tuple[VersionSpan, ...]:
        """The versions of the first `tokens` tokens of a request; none once vLLM has forgotten it."""
        processor = self._alive().output_processor
        states = [processor.request_states.get(name) for name in processor.external_req_ids.get(request_id, ())]
        starts: Any = next((state.weight_version_starts for state in states if state is not None), [])
        ends = [begin for _, begin in starts[1:]] + [tokens]
        spans = [VersionSpan(int(v), begin, min(end, tokens)) for (v, begin), end in zip(starts, ends, strict=False)]
        return tuple(span for span in spans if span.begin < span.end)

    async def release_all(self) -> int:
        """See Sampler."""
        return await self._release(list(self._running))

    async def release_unstarted(self) -> int:
        """See LiveWeights."""
        processor = self._alive().output_processor
        states: Any = processor.request_states.values()
        unstarted = [state.external_req_id for state in states if not state.detokenizer.num_output_tokens()]
        return await self._release(unstarted)

    async def _release(self, request_ids: list[str]) -> int:
        if request_ids:
            await self._alive().abort(request_ids)
        return len(request_ids)

    async def pause(self) -> None:
        """See LiveWeights."""
        # clear_cache would drop KV of requests that go on; the salt keeps new requests off old blocks instead.
        await self._alive().pause_generation(mode="keep", clear_cache=False)

    async def load(self, model_dir: Path) -> None:
        """See LiveWeights."""
        await self._call_workers("preceptor_load", str(model_dir))

    async def commit(self, version: int) -> None:
        """See LiveWeights."""
        await self._alive().update_weight_version(str(version))

    async def drop_kv(self) -> None:
        """See LiveWeights."""
        # Preempts what runs; a reset of the prefix cache alone is refused while anything does.
        await self._alive().reset_prefix_cache(reset_running_requests=True)

    async def resume(self) -> None:
        """See LiveWeights."""
        await self._alive().resume_generation()

    def give_up(self, why: str) -> None:
        """See LiveWeights."""
        self._given_up = why

    async def died(self) -> str:
        """Returns why, once the engine that had started has ended on its own or was given up."""
        while not self._given_up:  # vLLM offers a flag, no event
            if self._started and self._llm is not None and self._llm.errored:
                return "vLLM's engine process has ended"
            await asyncio.sleep(_DEATH_POLL_S)
        return self._given_up

    async def close(self) -> None:
        """Ends the engine's processes. One that is still loading ends with this process."""
        if self._llm is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._llm.shutdown)

    async def _call_workers(self, method: str, *arguments: Any) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await self._alive().collective_rpc(method, args=arguments)
        except EngineDeadError as error:
            raise EngineDead from error
        except Exception as error:  # vLLM hands the worker's exception on as a bare Exception
            raise LoadError(str(error).strip().splitlines()[0] if str(error).strip() else repr(error)) from error

    def _alive(self) -> AsyncLLM:
        if self._llm is None or self._llm.errored or self._given_up:
            raise EngineDead
        return self._llm


def stored_dtype(model_dir: Path) -> str:
    """Returns the dtype that a model's config.json names, "auto" (vLLM's choice) where it names none.

    vLLM's own "auto" runs float32 models in half precision, which puts its logprobs 1e-3 off the learner's.
    """
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    named = str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch.")
    return named if named in ("float32", "bfloat16", "float16") else "auto"


def _import_vllm() -> None:
    import vllm.engine.arg_utils
    import vllm.v1.engine.async_llm  # noqa: F401
