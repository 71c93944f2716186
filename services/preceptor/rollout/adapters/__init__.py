"""What a rollout worker reaches: generators, the reward service, Redis, the feedback queue."""
