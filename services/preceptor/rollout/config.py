"""Settings of a rollout worker."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from preceptor.common.config import ServiceSettings


class RolloutSettings(ServiceSettings):
    """`PRECEPTOR_ROLLOUT_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="PRECEPTOR_ROLLOUT_")

    metrics_port: int = Field(7230, ge=0, le=65535, description="HTTP /healthz, /readyz, /metrics")
    reward_address: str = Field("127.0.0.1:7110", min_length=1, description='RewardService, e.g. "dns:///reward:7110"')
    concurrency: int = Field(16, ge=1, le=1024, description="prompt groups collected at a time")
    run_quota: float = Field(
        1.0, gt=0, le=1, description="share of the groups collected at a time that one run may have, also when alone"
    )
    generate_timeout_s: float = Field(300.0, gt=0, description="bound on one call of a generator")
    stream_tokens: int = Field(
        64,
        ge=0,
        le=1024,
        description="completions that may become longer are streamed, so many tokens at a time: what a generator had "
        "written when it was lost is continued by another; 0: none are",
    )
    score_timeout_s: float = Field(60.0, gt=0, description="bound on one call of the reward service")
    report_margin_s: float = Field(1.0, ge=0, description="kept free before a task's deadline to report its failure")
    delivery_s: float = Field(10.0, gt=0, description="how long a group is offered to the stream past its deadline")
    discovery_refresh_s: float = Field(1.0, gt=0, description="how old the list of generators may grow")
    ejection_initial_s: float = Field(0.5, gt=0, description="a failing generator gets no work for so long at first")
    ejection_max_s: float = Field(4.0, gt=0, description="the longest it gets no work before it is probed again")
    offer_expires_s: float = Field(
        3600.0, gt=0, description="an offer that no feedback worker takes for so long lapses"
    )
