"""Where an rl run's prompts come from."""

from pydantic import Field, model_validator

from preceptor.learner.run_configs.base import ConfigModel, PathText


class Turn(ConfigModel):
    """One turn of a conversation."""

    role: str = Field(min_length=1, max_length=64, description="A role of the policy's chat template.")
    content: str = Field(max_length=1_000_000, description="What was said.")


class PromptSource(ConfigModel):
    """Where the prompts come from; they are drawn in an order that the seed fixes, reshuffled every epoch."""

    path: PathText | None = Field(
        default=None,
        description='Text file with a prompt per line, or JSONL rows {"prompt": text or messages, "prompt_id"?}.',
    )
    items: tuple[str | tuple[Turn, ...], ...] = Field(
        default=(), max_length=100_000, description="Prompts written into the config: texts or conversations."
    )

    @model_validator(mode="after")
    def _one_source(self) -> "PromptSource":
        if (self.path is None) == (not self.items):
            raise ValueError("give exactly one of `path` (a prompt file) and `items` (prompts in the config)")
        return self
