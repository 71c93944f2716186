"""Settings of a training process: everything that is not the run's own."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from preceptor.common.config import ServiceSettings

_SENDERS = 2
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class LearnerSettings(ServiceSettings):
    """PRECEPTOR_LEARNER_*. The run itself comes from its YAML."""

    model_config = SettingsConfigDict(env_prefix="PRECEPTOR_LEARNER_")

    port: int = Field(7140, ge=0, le=65535, description="gRPC: LearnerService, WeightService; 0 = any free one")
    metrics_port: int = Field(7240, ge=0, le=65535, description="HTTP /healthz, /readyz, /metrics; 0 = any free one")
    reward_address: str = Field("127.0.0.1:7110", description="RewardService that scores rl rollouts again")
    advertise_address: str = Field("", description="address that others reach this process at; empty: host:port")
    work_dir: str = Field("", description="where runs keep files while artifacts_url is not a local folder")
    weight_senders: int | None = Field(
        None,
        ge=0,
        le=16,
        description="processes that send weights over grpc beside this one; unset = 2 where host is this machine or "
        "weight_sender_port is given, else none: others must reach their ports",
    )
    weight_sender_port: int = Field(0, ge=0, le=65520, description="of the first of them, the others above; 0 = any")
    drain_timeout_s: float = Field(5.0, gt=0, le=3600, description="time for callers to hang up once the run has ended")

    @property
    def senders(self) -> int:
        """How many processes send weights beside this one."""
        if self.weight_senders is not None:
            return self.weight_senders
        return _SENDERS if self.weight_sender_port or self.host in _LOOPBACK else 0
