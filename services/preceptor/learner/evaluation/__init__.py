"""Evaluation during training: held-out prompts through the run's own generators and reward."""
