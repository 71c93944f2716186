"""Settings of a training process: everything that is not the run's own."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from preceptor.common.config import ServiceSettings


class LearnerSettings(ServiceSettings):
    """PRECEPTOR_LEARNER_*. The run itself comes from its YAML."""

    model_config = SettingsConfigDict(env_prefix="PRECEPTOR_LEARNER_")

    port: int = Field(7140, ge=0, le=65535, description="gRPC: LearnerService, WeightService; 0 = any free one")
    metrics_port: int = Field(7240, ge=0, le=65535, description="HTTP /healthz, /readyz, /metrics; 0 = any free one")
    reward_address: str = Field("127.0.0.1:7110", description="RewardService that scores rl rollouts again")
    advertise_address: str = Field("", description="address that others reach this process at; empty: host:port")
    work_dir: str = Field("", description="where runs keep files while artifacts_url is not a local folder")
    drain_timeout_s: float = Field(5.0, gt=0, le=3600, description="time for callers to hang up once the run has ended")
