"""What the service asks of an inference engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from preceptor.common.completions import Sampling, VersionSpan
from preceptor.common.errors import InternalError, Unavailable
from preceptor.generation.types import Limits, Turn


@dataclass(frozen=True, slots=True)
class Piece:
    """What one engine request wrote: all of it, or tokens since the last piece.

    spans: of all that the request wrote so far; none where they are not known yet. cached_tokens: of the prompt, found
    in the prefix cache.
    """

    token_ids: Sequence[int]
    text: str | None  # None where the engine was not asked to decode
    logprobs: Sequence[float]
    finish: str | None  # "stop", "length", "abort"; None while it goes on
    spans: tuple[VersionSpan, ...] = ()
    cached_tokens: int = 0


OnPiece = Callable[[Piece], None]


class EngineDead(Unavailable):
    """The engine's process has ended; nothing will come from it any more."""

    default_reason = "ENGINE_DEAD"

    def __init__(self) -> None:
        super().__init__("the engine of this generator has ended; it restarts", retry_after_s=5.0)


class LoadError(InternalError):
    """Weights could not be loaded; the engine may hold a mixture of old and new until a load succeeds."""

    default_reason = "LOAD_FAILED"


class Codec(Protocol):
    """The policy's tokenizer."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Returns the text without special tokens."""
        ...

    def render(self, turns: Sequence[Turn]) -> list[int]:
        """Returns a conversation's token ids, ready to be answered. InvalidInput without a chat template."""
        ...


class Sampler(Protocol):
    """One sequence at a time, many at once."""

    @property
    def codec(self) -> Codec: ...

    @property
    def limits(self) -> Limits: ...

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
        """Writes on from `token_ids` and returns the whole.

        A cancelled call aborts the engine's request. The finish is "abort" when the engine let go of the request
        (`release_unstarted`, `release_all`): what was written until then is returned.

        Args:
            token_ids: prompt, and what was written of the completion so far.
            sampling: validated.
            cache_salt: requests share KV blocks only with requests of the same salt.
            on_piece: gets tokens as they come, the last piece included.
            decode_pieces: whether pieces carry text; where none does, text is None in all of them.
            piece_tokens: pieces carry at least so many tokens, the first and the last excepted.

        Raises:
            EngineDead: the engine has ended.
            InvalidInput: the engine refuses the request.
        """
        ...

    async def release_all(self) -> int:
        """Lets go of every request; their calls return with finish "abort". Returns how many there were."""
        ...


class LiveWeights(Protocol):
    """The engine's weights, exchangeable while requests run. The calls come in this order: pause, load (again after
    LoadError), commit, drop_kv where it is wanted, resume."""

    async def pause(self) -> None:
        """Returns once no step runs and none will start. Requests and their KV stay."""
        ...

    async def load(self, model_dir: Path) -> None:
        """Replaces the weights by those of a Hugging Face folder. Raises LoadError, EngineDead."""
        ...

    async def commit(self, version: int) -> None:
        """Labels all tokens computed from now on with `version`."""
        ...

    async def drop_kv(self) -> None:
        """Forgets all KV. Requests in progress stay: they compute theirs anew, from their first token on. While paused
        alone."""
        ...

    async def release_unstarted(self) -> int:
        """Lets go of requests that have written nothing yet: they were admitted under the old version, and so might
        share KV blocks of its making. Returns how many there were."""
        ...

    async def resume(self) -> None: ...

    def give_up(self, why: str) -> None:
        """Declares the engine dead: it must never run again, for what it holds is unknown."""
        ...
