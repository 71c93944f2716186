"""What is written of a group so far, whichever generators wrote it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from preceptor.common.completions import VersionSpan
from preceptor.common.errors import InternalError
from preceptor.rollout.types import Completion, FinishReason, Generation


@dataclass(slots=True)
class _Sequence:
    """One completion as it arrives. known: its first tokens whose versions are known."""

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    spans: tuple[VersionSpan, ...] = ()
    ended: Completion | None = None

    @property
    def known(self) -> int:
        return self.spans[-1].end if self.spans else 0

    def so_far(self) -> Completion:
        """What can be continued elsewhere: tokens whose versions are known."""
        tokens, logprobs = self.token_ids[: self.known], self.logprobs[: self.known]
        return Completion(tokens, "", logprobs, FinishReason.HANDED_BACK, self.spans)


class StreamedGroup:
    """The answer of one generator as it arrives, by completion."""

    def __init__(self) -> None:
        self.generator_id = ""
        self.prompt_token_ids: tuple[int, ...] = ()
        self._sequences: dict[int, _Sequence] = {}

    def add(self, index: int, delta: Completion, *, ended: bool) -> None:
        """delta: the tokens since the last one, and the spans of all so far where they are known. ended: the last one,
        with the whole completion's text."""
        sequence = self._sequences.setdefault(index, _Sequence())
        sequence.token_ids += delta.token_ids
        sequence.logprobs += delta.sampling_logprobs
        if delta.version_spans:
            sequence.spans = delta.version_spans
        if ended:
            sequence.ended = replace(delta, token_ids=sequence.token_ids, sampling_logprobs=sequence.logprobs)

    def generation(self, n: int) -> Generation:
        """The whole answer. Raises InternalError where the generator left a completion out."""
        completions = tuple(sequence.ended for _, sequence in sorted(self._sequences.items()) if sequence.ended)
        if len(completions) != n:
            raise InternalError(f"{self.generator_id} ended a stream after {len(completions)} of {n} completions")
        return Generation(self.generator_id, self.prompt_token_ids, completions)

    def arrived(self, index: int) -> Completion | None:
        """The completion, whole or as far as it came; None where nothing did."""
        sequence = self._sequences.get(index)
        return None if sequence is None else sequence.ended or sequence.so_far()


class GroupDraft:
    """Completions that are finished, and those that were begun and wait for a generator to go on."""

    def __init__(self, n: int, begun: tuple[Completion, ...] = ()) -> None:
        self._n = n
        self.finished: list[Completion] = []
        self.begun = begun
        self.generator_id = ""
        self.prompt_token_ids: tuple[int, ...] = ()

    @property
    def missing(self) -> int:
        """Completions that are not finished; those begun come first in a request for them."""
        return self._n - len(self.finished)

    def take(self, generation: Generation) -> int:
        """Takes a generator's answer to a request for the missing ones; returns the tokens that it handed back."""
        self.generator_id, self.prompt_token_ids = generation.generator_id, generation.prompt_token_ids
        return self._sort(generation.completions)

    def salvage(self, streamed: StreamedGroup) -> int:
        """Takes what had arrived when a generator was lost; returns the tokens that another one can go on from."""
        if not streamed.prompt_token_ids:
            return 0  # it had not answered yet
        self.generator_id, self.prompt_token_ids = streamed.generator_id, streamed.prompt_token_ids
        before = [*self.begun, *[None] * (self.missing - len(self.begun))]
        found = [_longer(prior, streamed.arrived(index)) for index, prior in enumerate(before)]
        return self._sort(completion for completion in found if completion is not None and not problem(completion))

    def whole(self) -> Generation:
        """The group, once nothing is missing."""
        return Generation(self.generator_id, self.prompt_token_ids, tuple(self.finished))

    def _sort(self, completions: Iterable[Completion]) -> int:
        every = list(completions)
        self.finished += [c for c in every if c.finish_reason is not FinishReason.HANDED_BACK]
        self.begun = tuple(c for c in every if c.finish_reason is FinishReason.HANDED_BACK and c.token_ids)
        return sum(len(completion.token_ids) for completion in self.begun)


def _longer(prior: Completion | None, arrived: Completion | None) -> Completion | None:
    if prior is None or arrived is None:
        return arrived or prior
    return arrived if len(arrived.token_ids) >= len(prior.token_ids) else prior


def problem(completion: Completion) -> str:
    """What makes a completion unfit for training; empty when nothing does."""
    length = len(completion.token_ids)
    if len(completion.sampling_logprobs) != length:
        return f"has {length} tokens and {len(completion.sampling_logprobs)} sampling_logprobs"
    if not all(map(math.isfinite, completion.sampling_logprobs)):
        return "has sampling_logprobs that are not finite"
    if not length and completion.finish_reason is not FinishReason.HANDED_BACK:
        return "has no token"
    ends = [0, *(span.end for span in completion.version_spans)]
    begins = [*(span.begin for span in completion.version_spans), length]
    return "" if begins == ends == sorted(set(ends)) else f"has version_spans that do not cover its {length} tokens"
