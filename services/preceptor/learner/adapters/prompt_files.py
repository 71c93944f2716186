"""The prompts of an rl run, from a file or from the config."""

import json

from blake3 import blake3

from preceptor.learner.data.prompts import load_prompts
from preceptor.learner.pump.prompts import PromptRecord
from preceptor.learner.run_configs.rl import PromptSource


def read_prompts(source: PromptSource) -> list[PromptRecord]:
    """All prompts of a run. Raises InvalidInput naming the file and line that is wrong."""
    if source.path is None:
        contents = [
            item if isinstance(item, str) else tuple((t.role, t.content) for t in item) for item in source.items
        ]
        return [PromptRecord(str(place), content) for place, content in enumerate(contents)]
    return [
        PromptRecord(
            record.prompt_id,
            record.prompt
            if isinstance(record.prompt, str)
            else tuple((turn["role"], turn["content"]) for turn in record.prompt),
        )
        for record in load_prompts(source.path)
    ]


def prompts_digest(prompts: list[PromptRecord]) -> str:
    """BLAKE3 hex digest over ids and contents, in order."""
    digest = blake3()
    for prompt in prompts:
        digest.update(json.dumps([prompt.prompt_id, prompt.content]).encode() + b"\n")
    return digest.hexdigest()
