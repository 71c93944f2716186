"""Hugging Face models as the learner uses them: loading, batching, forward passes, export."""
