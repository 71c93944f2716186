"""The order in which prompts are issued: fixed by the seed, a new shuffle every epoch."""

import random
from dataclasses import dataclass
from functools import lru_cache

from preceptor.common.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class PromptRecord:
    """One prompt: text, or the (role, content) turns of a conversation."""

    prompt_id: str
    content: str | tuple[tuple[str, str], ...]


class PromptOrder:
    """Maps issue_index to a prompt. Nothing to save: the same seed gives the same order, also after a restart."""

    def __init__(self, prompts: list[PromptRecord], seed: int) -> None:
        if not prompts:
            raise InvalidInput("no prompts: the prompt file is empty", field="prompts")
        self._prompts = prompts
        self._seed = seed
        self._shuffled = lru_cache(maxsize=4)(self._shuffle)

    def prompt(self, issue_index: int) -> PromptRecord:
        """The prompt of a group: every prompt once per epoch of len(prompts) groups."""
        epoch, place = divmod(issue_index, len(self._prompts))
        return self._prompts[self._shuffled(epoch)[place]]

    def _shuffle(self, epoch: int) -> list[int]:
        order = list(range(len(self._prompts)))
        random.Random(f"prompts/{self._seed}/{epoch}").shuffle(order)
        return order


@dataclass(frozen=True, slots=True)
class FeedbackDraw:
    """Which groups are offered to raters; drawn from the seed and the issue index, so that all attempts agree."""

    project: str
    share: float
    control_share: float
    seed: int

    def draw(self, issue_index: int) -> tuple[str, bool]:
        """(project or "", whether the offer belongs to the random control share)."""
        value = random.Random(f"feedback/{self.seed}/{issue_index}").random()
        if value < self.control_share:
            return self.project, True
        return (self.project if value < self.control_share + self.share else ""), False
