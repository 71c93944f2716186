"""Rollout workers: prompt -> generation -> reward -> experience stream."""
