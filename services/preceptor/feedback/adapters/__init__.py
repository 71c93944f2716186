"""What the feedback service touches of the world: SQL databases and Redis."""
