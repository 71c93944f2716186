"""An engine that does what a test tells it, one call at a time."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from preceptor.common.completions import Sampling, VersionSpan
from preceptor.generation.engine import LoadError, OnPiece, Piece
from preceptor.generation.types import Limits, Turn

LIMITS = Limits(max_model_len=64, vocab_size=100, seeds=True)


class LetterCodec:
    """One token per letter: "a" is 0."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") for letter in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(chr(ord("a") + token) for token in token_ids)

    def render(self, turns: Sequence[Turn]) -> list[int]:
        return self.encode("".join(turn.content for turn in turns))


class ScriptedSampler:
    """Answers `sample` with the next of `answers`; None waits until released, and is then aborted.

    A tuple comes in pieces, whose spans count from the first one's start; an error among them ends it.
    """

    def __init__(self, *answers: Piece | BaseException | tuple[Piece | BaseException, ...] | None) -> None:
        self.codec = LetterCodec()
        self.limits = LIMITS
        self.answers = list(answers)
        self.calls: list[tuple[list[int], Sampling, str]] = []
        self.piece_tokens: list[int] = []
        self.cancelled = 0
        self.released = asyncio.Event()

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
        self.piece_tokens.append(piece_tokens)
        self.calls.append((list(token_ids), sampling, cache_salt))
        answer = self.answers.pop(0) if self.answers else None
        if answer is None:
            answer = await self._wait()
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, tuple):
            return self._in_pieces(answer, on_piece)
        if on_piece is not None:
            on_piece(answer)
        return answer

    def _in_pieces(self, pieces: tuple[Piece | BaseException, ...], on_piece: OnPiece | None) -> Piece:
        tokens, logprobs = [], []
        for given in pieces:
            if isinstance(given, BaseException):
                raise given
            tokens += given.token_ids
            logprobs += given.logprobs
            if on_piece is not None:
                on_piece(given)
        return replace(given, token_ids=tokens, logprobs=logprobs)

    async def _wait(self) -> Piece:
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return piece("", finish="abort")

    async def release_all(self) -> int:
        self.released.set()
        return len(self.calls)


def piece(text: str, finish: str | None = "stop", version: int = 0, decoded: bool = False) -> Piece:
    tokens = LetterCodec().encode(text)
    spans = (VersionSpan(version, 0, len(tokens)),) if tokens else ()
    return Piece(tokens, text if decoded else None, [-float(token) for token in tokens], finish, spans)


class ScriptedWeights:
    """LiveWeights that writes down what is asked of it; folders in `bad` do not load."""

    def __init__(self, *bad: Path) -> None:
        self.log: list[str] = []
        self.bad = set(bad)
        self.given_up = ""
        self.on_load: Callable[[Path], None] = lambda folder: None

    async def pause(self) -> None:
        self.log.append("pause")

    async def load(self, model_dir: Path) -> None:
        self.log.append(f"load {model_dir.name}")
        self.on_load(model_dir)
        await asyncio.sleep(0)
        if model_dir in self.bad:
            raise LoadError(f"{model_dir.name} is bad")

    async def commit(self, version: int) -> None:
        self.log.append(f"commit {version}")

    async def drop_kv(self) -> None:
        self.log.append("drop_kv")

    async def release_unstarted(self) -> int:
        self.log.append("release_unstarted")
        return 0

    async def resume(self) -> None:
        self.log.append("resume")

    def give_up(self, why: str) -> None:
        self.given_up = why
