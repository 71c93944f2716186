"""How large a demo is. "demo" is what `make demo` runs; "ci" is the reduced one, at most five minutes on two cores."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Profile:
    """Sizes of one demo.

    comparisons: minted before the first reward model. label_targets: rankings in force before each reward run; on
    average a comparison gets 1.4 rankings, since a fifth of them gets three. rl_steps: done in all at the end of each
    iteration. min_heldout_accuracy: the gate, two standard errors above what labels without meaning reach (a fifth of
    the prompts, six pairs each).
    """

    name: str
    corpus_size: int
    comparisons: int
    label_targets: tuple[int, ...]
    rl_steps: tuple[int, ...]
    live_share: float
    sft_learning_rate: float = 3e-3
    reward_learning_rate: float = 5e-4
    reward_epochs: int = 2
    policy_learning_rate: float = 3e-4
    critic_learning_rate: float = 6e-4
    kl_coef: float = 0.10
    batch_size: int = 128
    group_size: int = 4
    min_heldout_accuracy: float = 0.55
    held_out_prompts: int = 128
    samples_per_prompt: int = 4
    max_tokens: int = 64

    @property
    def iterations(self) -> int:
        return len(self.label_targets)

    @property
    def wanted_rankings(self) -> int:
        """At which the raters rest."""
        return self.label_targets[-1]


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "demo": Profile(
            name="demo",
            corpus_size=32_000,
            comparisons=540,
            label_targets=(750, 1500),
            rl_steps=(11, 22),
            live_share=0.75,
        ),
        "ci": Profile(
            name="ci",
            corpus_size=18_000,
            comparisons=320,
            label_targets=(440, 580),
            rl_steps=(6, 12),
            live_share=0.6,
        ),
    }
)
