"""Between the service's requests and vLLM's."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from preceptor.common.completions import Sampling, VersionSpan
from preceptor.common.errors import InvalidInput
from preceptor.generation.engine import EngineDead, OnPiece, Piece

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import RequestOutput


def parameters_of(sampling: Sampling, *, piece_tokens: int | None, decode: bool = True) -> SamplingParams:
    """Returns vLLM's parameters: the sampled token's logprob always, text on the way only where it is needed.

    piece_tokens: of a stream, see Sampler.sample; None where nobody reads on the way. decode: see decode_pieces there.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    streamed = piece_tokens is not None
    asked: dict[str, Any] = {
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_tokens": sampling.min_tokens,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "seed": sampling.seed,
    }
    return SamplingParams(
        temperature=1.0 if sampling.temperature is None else sampling.temperature,
        max_tokens=sampling.max_tokens,
        stop=list(sampling.stop) or None,
        logprobs=0,  # of the sampled token alone
        flat_logprobs=True,
        # Decoding token by token costs; one call at the end does where nobody needs the text meanwhile.
        detokenize=(streamed and decode) or bool(sampling.stop),
        output_kind=RequestOutputKind.DELTA if streamed else RequestOutputKind.FINAL_ONLY,
        # The first token comes at once; an aborted request's last piece carries what was held back.
        stream_interval=piece_tokens,
        skip_clone=True,
        **{name: value for name, value in asked.items() if value is not None},
    )


async def collect(
    outputs: AsyncGenerator[RequestOutput, None],
    on_piece: OnPiece | None,
    spans_so_far: Callable[[int], tuple[VersionSpan, ...]] = lambda tokens: (),
) -> Piece:
    """Returns the whole of what a request wrote. See Sampler.sample.

    spans_so_far: of the first so many tokens of a request that runs; vLLM says it unasked only at the end.
    """
    from vllm.exceptions import VLLMClientError
    from vllm.v1.engine.exceptions import EngineDeadError

    pieces: list[Piece] = []
    written = 0
    try:
        async for output in outputs:
            piece = _piece(output)
            written += len(piece.token_ids)
            pieces.append(piece if piece.finish else replace(piece, spans=spans_so_far(written)))
            if on_piece is not None:
                on_piece(pieces[-1])
    except EngineDeadError as error:
        raise EngineDead from error
    except (ValueError, VLLMClientError) as error:
        raise InvalidInput(f"the engine refuses this request: {error}", reason="ENGINE_REFUSES") from error
    finally:
        await outputs.aclose()
    return pieces[0] if len(pieces) == 1 else _joined(pieces)


def _piece(output: RequestOutput) -> Piece:
    completion = output.outputs[0]
    spans = tuple(VersionSpan(int(span.version), span.start, span.end) for span in completion.weight_versions or ())
    logprobs: Any = completion.logprobs
    return Piece(
        token_ids=list(completion.token_ids),
        text=completion.text,
        # One per position, since none but the sampled token's was asked for.
        logprobs=list(logprobs.logprobs) if logprobs is not None else [],
        finish=completion.finish_reason,
        spans=spans,
        cached_tokens=output.num_cached_tokens or 0,
    )


def _joined(pieces: list[Piece]) -> Piece:
    last = pieces[-1]
    return Piece(
        token_ids=[token for piece in pieces for token in piece.token_ids],
        text="".join(piece.text or "" for piece in pieces),
        logprobs=[value for piece in pieces for value in piece.logprobs],
        finish=last.finish,
        spans=last.spans,
        cached_tokens=last.cached_tokens,
    )
