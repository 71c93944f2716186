"""What a generator counts: preceptor_generation_*."""

from __future__ import annotations

from preceptor.common.telemetry import counter, gauge, histogram

TOKENS = counter("preceptor_generation_tokens_total", "Completion tokens written.")
PROMPT_TOKENS = counter("preceptor_generation_prompt_tokens_total", "Prompt tokens of admitted calls.")
CACHED_PROMPT_TOKENS = counter(
    "preceptor_generation_cached_prompt_tokens_total",
    "Prompt tokens found in the prefix cache, by completion: the n of a group count n - 1 times where all goes well.",
)
COMPLETIONS = counter("preceptor_generation_completions_total", "Completions returned, by how they ended.", ["finish"])
ACTIVE = gauge("preceptor_generation_active_completions", "Completions that run or wait.")
POLICY_VERSION = gauge("preceptor_generation_policy_version", "The policy version in force; -1 = none.")
SECONDS = histogram(
    "preceptor_generation_call_seconds",
    "From admission to the last token of a call.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
)
UPDATES = counter("preceptor_generation_weight_updates_total", "Weight updates, by how they ended.", ["result"])
APPLY_SECONDS = histogram(
    "preceptor_generation_weight_apply_seconds",
    "From a manifest seen to its version in force.",
    buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
)
STALL_SECONDS = histogram(
    "preceptor_generation_weight_stall_seconds",
    "Generation paused for a weight update.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)
