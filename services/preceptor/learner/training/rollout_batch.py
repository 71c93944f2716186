"""A batch of rollouts as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from preceptor.common.errors import InvalidInput
from preceptor.learner.models.batching import TokenRow
from preceptor.learner.types import Experience

_NAMED = 8  # rollouts named in a message


@dataclass(frozen=True)
class RolloutBatch:
    """B rollouts, T = tokens of the longest completion.

    rows: prompt + completion, the completion being the targets. mask: [B, T] bool. sampling_logprobs: [B, T].
    current: [B, T] bool, tokens of rollouts that policy_version alone computed. scores: [B]. finished: [B] bool.
    staleness: [B], policy_version less the oldest version among a rollout's tokens. weights: [B], of a rollout's tokens
    in the policy loss. groups: [B] int64, the number of each rollout's prompt group, from 0. token_rewards: [B, T], 0
    where there are none.
    """

    rollout_ids: list[str]
    rows: list[TokenRow]
    mask: Tensor
    sampling_logprobs: Tensor
    current: Tensor
    scores: Tensor
    finished: Tensor
    staleness: Tensor
    weights: Tensor
    groups: Tensor
    token_rewards: Tensor

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens of the batch."""
        return sum(row.target_spans[0][0] for row in self.rows)

    def names(self, places: Sequence[int]) -> str:
        """Returns the rollout ids at `places`, the first few of them written out."""
        shown = ", ".join(self.rollout_ids[i] for i in places[:_NAMED])
        return shown if len(places) <= _NAMED else f"{shown} and {len(places) - _NAMED} more"


def assemble(batch: Sequence[Experience], *, policy_version: int, device: torch.device) -> RolloutBatch:
    """Returns the rollouts as tensors.

    Raises:
      InvalidInput: the batch is empty; a rollout has no token, or lists of different lengths, or a version above
        policy_version.
    """
    if not batch:
        raise InvalidInput("an update needs at least one rollout", field="batch")
    for experience in batch:
        _check(experience, policy_version)
    width = max(len(experience.token_ids) for experience in batch)
    mask = torch.zeros(len(batch), width, dtype=torch.bool)
    logprobs = torch.zeros(len(batch), width)
    dense = torch.zeros(len(batch), width)
    current = torch.zeros_like(mask)
    for place, experience in enumerate(batch):
        mask[place, : len(experience.token_ids)] = True
        logprobs[place, : len(experience.token_ids)] = torch.tensor(experience.sampling_logprobs)
        dense[place, : len(experience.token_rewards)] = torch.tensor(experience.token_rewards)
        # A rollout that an update overtook has tokens of this version on keys and values of an older one: no measure of
        # how well engine and learner agree.
        if all(version == policy_version for version, _, _ in experience.version_spans):
            current[place, : len(experience.token_ids)] = True
    numbers = {name: number for number, name in enumerate(dict.fromkeys(e.group_id for e in batch))}
    oldest = [min(version for version, _, _ in experience.version_spans) for experience in batch]
    return RolloutBatch(
        rollout_ids=[experience.rollout_id for experience in batch],
        rows=[_row(experience) for experience in batch],
        mask=mask.to(device),
        sampling_logprobs=logprobs.to(device),
        current=current.to(device),
        scores=torch.tensor([experience.score for experience in batch], device=device),
        finished=torch.tensor([experience.finished for experience in batch], device=device),
        staleness=torch.tensor([policy_version - version for version in oldest], dtype=torch.float32, device=device),
        weights=torch.tensor([experience.weight for experience in batch], device=device),
        groups=torch.tensor([numbers[experience.group_id] for experience in batch], device=device),
        token_rewards=dense.to(device),
    )


def _check(experience: Experience, policy_version: int) -> None:
    tokens = len(experience.token_ids)
    name = f"rollout {experience.rollout_id}"
    if tokens == 0 or not experience.prompt_token_ids:
        raise InvalidInput(f"{name} has no prompt or no completion token", field="token_ids")
    if len(experience.sampling_logprobs) != tokens:
        raise InvalidInput(
            f"{name} has {len(experience.sampling_logprobs)} sampling_logprobs for {tokens} tokens",
            field="sampling_logprobs",
        )
    if len(experience.token_rewards) not in (0, tokens):
        raise InvalidInput(
            f"{name} has {len(experience.token_rewards)} token_rewards for {tokens} tokens", field="token_rewards"
        )
    covered = 0
    for version, begin, end in experience.version_spans:
        if begin != covered or end <= begin or version > policy_version:
            raise InvalidInput(
                f"{name}: the span of version {version}, tokens {begin} to {end}, does not go on at {covered}, is "
                f"empty, or is newer than policy_version {policy_version}",
                field="version_spans",
            )
        covered = end
    if covered != tokens:
        raise InvalidInput(f"{name}: version_spans cover {covered} of {tokens} tokens", field="version_spans")


def _row(experience: Experience) -> TokenRow:
    prompt = len(experience.prompt_token_ids)
    ids = [*experience.prompt_token_ids, *experience.token_ids]
    return TokenRow(ids, ((prompt, len(ids)),))
