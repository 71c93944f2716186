"""Training runs: from a config to an exported model."""
