"""What the reward service reaches outside: torch models, user functions, the artifact store."""
