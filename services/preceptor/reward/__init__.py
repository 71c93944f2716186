"""RewardService: scores completions with reward models and reward functions."""
