"""What may be asked of the sampler. Pure checks; each error names the request's field and its limit."""

from __future__ import annotations

import math

from preceptor.common.completions import Sampling
from preceptor.common.errors import FailedPrecondition, InvalidInput
from preceptor.generation.types import Limits

MAX_N = 256
MAX_DELTA_TOKENS = 1024
MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 256
_MAX_SEED = 2**63 - 1
# vLLM itself treats temperatures below 0.01 as 0.01, which would make the logprobs those of another distribution.
_MIN_TEMPERATURE = 0.01
_MAX_TEMPERATURE = 100.0


def check_n(n: int) -> None:
    """Returns when a call may ask for n completions; InvalidInput otherwise."""
    if not 1 <= n <= MAX_N:
        raise InvalidInput(f"n is {n}: ask for 1 to {MAX_N} completions", field="n")


def check_delta_tokens(tokens: int) -> None:
    """Returns when a stream may ask for deltas of so many tokens; InvalidInput otherwise."""
    if not 0 <= tokens <= MAX_DELTA_TOKENS:
        raise InvalidInput(
            f"delta_tokens is {tokens}: ask for 1 to {MAX_DELTA_TOKENS} tokens, or 0 for the server's own choice",
            field="delta_tokens",
        )


def check(sampling: Sampling, *, rl: bool, limits: Limits) -> None:
    """Returns when the parameters are allowed.

    Args:
        sampling: as asked.
        rl: whether sampling_logprobs must be the policy's own at that temperature, unbent.
        limits: of the engine.

    Raises:
        InvalidInput: naming the field and what is allowed.
        FailedPrecondition: a seed where the engine cannot honour it safely.
    """
    if sampling.max_tokens < 1:
        raise InvalidInput(
            f"sampling.max_tokens is {sampling.max_tokens}: give the most tokens to write, 1 or more",
            field="sampling.max_tokens",
        )
    _check_ranges(sampling, limits)
    _check_stop(sampling)
    if rl:
        _check_unbent(sampling)
    if sampling.seed is not None and not limits.seeds:
        raise FailedPrecondition(
            "sampling.seed cannot be honoured here: this engine prefills in chunks on CPU, where vLLM fails on seeded "
            "requests; leave the seed out or start the generator with PRECEPTOR_GENERATION_CHUNKED_PREFILL=false",
            field="sampling.seed",
            reason="SEED_UNSUPPORTED",
        )


def _check_ranges(sampling: Sampling, limits: Limits) -> None:
    temperature = sampling.temperature
    if temperature is not None and temperature != 0:
        _within("temperature", temperature, _MIN_TEMPERATURE, _MAX_TEMPERATURE, "or 0 for greedy")
    if sampling.top_p is not None and not 0 < sampling.top_p <= 1:
        raise _outside("top_p", sampling.top_p, "above 0 and at most 1")
    if sampling.top_k is not None and not (sampling.top_k in (-1, 0) or 1 <= sampling.top_k <= limits.vocab_size):
        raise _outside("top_k", sampling.top_k, f"1 to {limits.vocab_size}, or 0 for off")
    if sampling.min_tokens is not None and not 0 <= sampling.min_tokens <= sampling.max_tokens:
        raise _outside("min_tokens", sampling.min_tokens, f"0 to max_tokens ({sampling.max_tokens})")
    for name in ("presence_penalty", "frequency_penalty"):
        value = getattr(sampling, name)
        if value is not None:
            _within(name, value, -2.0, 2.0)
    if sampling.repetition_penalty is not None:
        _within("repetition_penalty", sampling.repetition_penalty, 0.01, 100.0)
    if sampling.seed is not None and not 0 <= sampling.seed <= _MAX_SEED:
        raise _outside("seed", sampling.seed, "0 to 2^63 - 1")


def _check_stop(sampling: Sampling) -> None:
    if len(sampling.stop) > MAX_STOP_STRINGS:
        raise InvalidInput(
            f"sampling.stop has {len(sampling.stop)} strings: at most {MAX_STOP_STRINGS}", field="sampling.stop"
        )
    for index, text in enumerate(sampling.stop):
        if not 1 <= len(text) <= MAX_STOP_CHARS:
            raise InvalidInput(
                f"sampling.stop[{index}] has {len(text)} characters: 1 to {MAX_STOP_CHARS}",
                field=f"sampling.stop[{index}]",
            )


def _check_unbent(sampling: Sampling) -> None:
    # min_tokens masks EOS before the logprobs are taken (measured: a mean error of 0.004); the others reshape the
    # distribution by design.
    if sampling.temperature is not None and sampling.temperature <= 0:
        raise _bends("temperature", sampling.temperature, "must be above 0")
    if sampling.top_p is not None and sampling.top_p != 1:
        raise _bends("top_p", sampling.top_p, "must be 1 or absent")
    if sampling.top_k not in (None, 0, -1):
        raise _bends("top_k", sampling.top_k, "must be absent")
    for name in ("min_tokens", "presence_penalty", "frequency_penalty"):
        value = getattr(sampling, name)
        if value not in (None, 0):
            raise _bends(name, value, "must be 0 or absent")
    if sampling.repetition_penalty not in (None, 1):
        raise _bends("repetition_penalty", sampling.repetition_penalty, "must be 1 or absent")


def _within(name: str, value: float, low: float, high: float, also: str = "") -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise _outside(name, value, f"{low:g} to {high:g}{', ' + also if also else ''}")


def _outside(name: str, value: float, allowed: str) -> InvalidInput:
    return InvalidInput(f"sampling.{name} is {value:g}: allowed is {allowed}", field=f"sampling.{name}")


def _bends(name: str, value: float | None, rule: str) -> InvalidInput:
    return InvalidInput(
        f"sampling.{name} is {value:g}: in RL mode it {rule}, or sampling_logprobs would not be the policy's own",
        field=f"sampling.{name}",
        reason="BENDS_THE_DISTRIBUTION",
    )
