"""One completion from admission to its end, across weight updates, re-admissions and hand-backs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from preceptor.common.completions import Sampling, VersionSpan
from preceptor.common.errors import InternalError, InvalidInput
from preceptor.generation import metrics
from preceptor.generation.engine import Piece, Sampler
from preceptor.generation.types import Completion, Finish
from preceptor.generation.versions import VersionClock

_ENGINE_FINISH = {"stop": Finish.STOP, "length": Finish.LENGTH, "repetition": Finish.STOP}
_RELEASED = "abort"


@dataclass(frozen=True, slots=True)
class Streaming:
    """How a completion is followed while it is written.

    Args:
        on_tokens: gets new tokens as they come, with the spans of all tokens so far (none where they are not known
            yet); the last ones with the finish.
        piece_tokens: at least so many at a time, see Sampler.sample.
        text_at_end: no text until the last tokens, which come with all of it.
    """

    on_tokens: Callable[[Completion], None]
    piece_tokens: int = 1
    text_at_end: bool = False


class SequenceRunner:
    """Writes completions with a Sampler.

    Args:
        sampler: the engine.
        clock: whose version salts the cache at admission.
        salt: names the run; the salt is `<salt>/<version>`, so no KV block crosses versions.
    """

    def __init__(self, sampler: Sampler, clock: VersionClock, salt: str) -> None:
        self._sampler = sampler
        self._clock = clock
        self._salt = salt
        self.handing_back = False

    async def run(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        prior: Completion | None = None,
        streaming: Streaming | None = None,
    ) -> Completion:
        """Returns the whole completion, `prior`'s tokens, logprobs and spans at its beginning.

        Args:
            prompt: token ids.
            sampling: validated; its max_tokens counts `prior`'s tokens too.
            prior: what another generator had written.
            streaming: how the completion is followed.

        Raises:
            InternalError: the engine failed on this request.
            EngineDead, InvalidInput: see Sampler.sample.
        """
        draft = _Draft(prior or Completion())
        while True:
            relay = None if streaming is None else _Relay(streaming, draft)
            piece = await self._sampler.sample(
                [*prompt, *draft.token_ids],
                draft.rest_of(sampling),
                cache_salt=f"{self._salt}/{self._clock.version}",
                on_piece=relay,
                piece_tokens=1 if streaming is None else streaming.piece_tokens,
                decode_pieces=streaming is not None and not streaming.text_at_end,
            )
            metrics.CACHED_PROMPT_TOKENS.inc(piece.cached_tokens)
            draft.append(piece)
            finish = self._end_of(piece)
            whole = None if finish is None else draft.completion(finish, self._sampler.codec.decode)
            if relay is not None:
                relay.end(whole)
            if whole is not None:
                return whole
            # The engine let go of it because it was admitted under an older version: it is admitted anew.

    def _end_of(self, piece: Piece) -> Finish | None:
        if piece.finish == _RELEASED:
            return Finish.HANDED_BACK if self.handing_back else None
        if piece.finish not in _ENGINE_FINISH:
            raise InternalError(f"the engine ended a request with {piece.finish!r}")
        return _ENGINE_FINISH[piece.finish]


def check_prior(prior: Completion, sampling: Sampling, vocab_size: int, field: str) -> None:
    """Returns when a handed-back completion can be continued.

    Raises:
        InvalidInput: its lists differ in length, its spans do not cover it, a token is unknown, or nothing is left.
    """
    count = len(prior.token_ids)
    if count != len(prior.sampling_logprobs):
        raise InvalidInput(
            f"{field} has {count} token_ids and {len(prior.sampling_logprobs)} sampling_logprobs: as many of each",
            field=f"{field}.sampling_logprobs",
        )
    edges = [0, *(span.end for span in prior.spans)]
    if [span.begin for span in prior.spans] != edges[:-1] or edges[-1] != count or edges != sorted(set(edges)):
        raise InvalidInput(
            f"{field}.version_spans do not cover its {count} tokens without gap or overlap",
            field=f"{field}.version_spans",
        )
    if any(not 0 <= token < vocab_size for token in prior.token_ids):
        raise InvalidInput(f"{field}.token_ids holds an id outside [0, {vocab_size})", field=f"{field}.token_ids")
    if count >= sampling.max_tokens:
        raise InvalidInput(
            f"{field} has {count} tokens and sampling.max_tokens is {sampling.max_tokens}: nothing is left to write",
            field=field,
        )
    if sampling.presence_penalty or sampling.frequency_penalty:
        raise InvalidInput(
            "continue_from cannot be combined with penalties on what was written: the engine takes the earlier tokens "
            "for prompt",
            field=field,
        )


@dataclass(slots=True)
class _Draft:
    """A completion that grows by pieces."""

    prior: Completion
    token_ids: list[int]
    logprobs: list[float]
    spans: list[VersionSpan]
    texts: list[str | None]

    def __init__(self, prior: Completion) -> None:
        self.prior = prior
        self.token_ids = list(prior.token_ids)
        self.logprobs = list(prior.sampling_logprobs)
        self.spans = list(prior.spans)
        self.texts = []

    def rest_of(self, sampling: Sampling) -> Sampling:
        """Returns the parameters for what is still to be written."""
        written = len(self.token_ids)
        if not written:
            return sampling
        min_tokens = max(0, sampling.min_tokens - written) if sampling.min_tokens else sampling.min_tokens
        return replace(sampling, max_tokens=sampling.max_tokens - written, min_tokens=min_tokens)

    def append(self, piece: Piece) -> None:
        offset = len(self.token_ids)
        self.token_ids += piece.token_ids
        self.logprobs += piece.logprobs
        self.texts.append(piece.text)
        self.spans = _joined(self.spans, piece.spans, offset)

    def completion(self, finish: Finish, decode: Callable[[Sequence[int]], str]) -> Completion:
        if None in self.texts:
            text = decode(self.token_ids)
        else:
            # The engine cut the text before a stop string, which the tokens still hold.
            text = decode(self.prior.token_ids) + "".join(text or "" for text in self.texts)
        return Completion(self.token_ids, text, self.logprobs, finish, tuple(self.spans))


class _Relay:
    """Hands the pieces of one engine request on, the last one together with what `run` makes of it."""

    def __init__(self, streaming: Streaming, draft: _Draft) -> None:
        self._streaming = streaming
        self._before = list(draft.spans)
        self._offset = len(draft.token_ids)
        self._last: Piece | None = None

    def __call__(self, piece: Piece) -> None:
        if piece.finish is None:
            self._hand_on(piece, Finish.NOT_YET)
        else:
            self._last = piece

    def end(self, whole: Completion | None) -> None:
        """whole: the completion, unless it goes on with another request."""
        if self._last is not None:
            self._hand_on(self._last, Finish.NOT_YET if whole is None else whole.finish, whole)

    def _hand_on(self, piece: Piece, finish: Finish, whole: Completion | None = None) -> None:
        text = piece.text or ""
        if self._streaming.text_at_end:
            text = "" if whole is None else whole.text
        spans = whole.spans if whole is not None else tuple(_joined(self._before, piece.spans, self._offset))
        known = spans if whole is not None or piece.spans else ()
        self._streaming.on_tokens(Completion(piece.token_ids, text, piece.logprobs, finish, known))


def _joined(spans: Sequence[VersionSpan], more: Sequence[VersionSpan], offset: int) -> list[VersionSpan]:
    """Spans of one sequence, and those of a piece that begins at `offset`; neighbours of one version become one."""
    joined = list(spans)
    for span in more:
        if span.begin == span.end:
            continue
        last = joined[-1] if joined else None
        if last is not None and last.policy_version == span.policy_version:
            joined[-1] = replace(last, end=span.end + offset)
        else:
            joined.append(VersionSpan(span.policy_version, span.begin + offset, span.end + offset))
    return joined
