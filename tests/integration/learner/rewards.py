"""Reward functions of the learner's tests."""


def few_es(prompts: list[str], completions: list[str], prompt_ids: list[str], truncated: list[bool]) -> list[float]:
    """Easy to learn: minus the number of letters "e"."""
    return [-float(completion.count("e")) for completion in completions]


def broken(prompts: list[str], completions: list[str], prompt_ids: list[str], truncated: list[bool]) -> list[float]:
    raise RuntimeError("this reward is broken on purpose")
