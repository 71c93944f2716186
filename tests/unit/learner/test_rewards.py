"""Reward shaping: one test per known implementation detail."""

import torch

from preceptor.learner.rl.rewards import last_token_index, shape_scores, token_rewards

MASK = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])


def test_the_score_stands_on_the_last_real_token():
    rewards = token_rewards(torch.tensor([5.0, 7.0, 9.0]), torch.zeros(3, 3), MASK, kl_coef=0.1).rewards
    assert rewards.tolist() == [[0.0, 0.0, 5.0], [7.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert last_token_index(MASK).tolist() == [2, 0, -1]


def test_kl_is_taken_from_every_token_that_counts():
    kl = torch.tensor([[1.0, 2.0, 3.0], [4.0, torch.nan, torch.inf], [1.0, 1.0, 1.0]])
    shaped = token_rewards(torch.tensor([5.0, 0.0, 0.0]), kl, MASK, kl_coef=0.5)
    assert shaped.rewards.tolist() == [[-0.5, -1.0, 3.5], [-2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert shaped.non_score_rewards.tolist() == [[-0.5, -1.0, -1.5], [-2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_the_missing_eos_penalty_falls_on_unfinished_rollouts_after_the_clip():
    scores = shape_scores(
        torch.tensor([3.0, -3.0, 0.5]), torch.tensor([True, False, False]), missing_eos_penalty=1.0, clip=2.0
    )
    assert scores.tolist() == [2.0, -3.0, -0.5]


def test_without_clip_or_penalty_scores_stay():
    scores = torch.tensor([3.0, -300.0])
    assert torch.equal(shape_scores(scores, torch.tensor([True, False])), scores)
