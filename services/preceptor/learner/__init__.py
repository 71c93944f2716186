"""Training jobs (sft, reward, rl) and the services they expose while they run: LearnerService, WeightService."""
