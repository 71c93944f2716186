"""Rank 0 leads: what it asks of its trainer, every other rank's trainer does as well."""

from collections.abc import Callable
from typing import Any

from preceptor.learner.distributed.ranks import Ranks

_BUILD, _END = "build", "end"


class LeadingTrainer:
    """Rank 0's trainer: tells the other ranks each call of a method, then makes it. Arguments must be picklable."""

    def __init__(self, trainer: Any, ranks: Ranks) -> None:
        self._trainer, self._ranks = trainer, ranks

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._trainer, name)
        if not callable(method):
            return method

        def told(*arguments: Any, **options: Any) -> Any:
            self._ranks.told((name, arguments, options))
            return method(*arguments, **options)

        return told

    def dismiss(self) -> None:
        """The other ranks forget their trainers."""
        self._ranks.told((_END, (), {}))


def summon(ranks: Ranks) -> None:
    """Rank 0: the others build a trainer, as it does itself."""
    ranks.told(_BUILD)


def release(ranks: Ranks) -> None:
    """Rank 0: the job is done, the others may end."""
    ranks.told(_END)


def follow(ranks: Ranks, build: Callable[[], Any]) -> None:
    """On every other rank: builds a trainer when summoned and does what rank 0 asks of its own, until released."""
    while ranks.told("") == _BUILD:
        trainer = build()
        while True:
            name, arguments, options = ranks.told(("", (), {}))
            if name == _END:
                break
            getattr(trainer, name)(*arguments, **options)
