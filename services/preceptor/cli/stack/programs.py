"""The programs of an embedded system: command lines and environments, one per process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from preceptor.cli.stack.cores import CorePlan, CoreShare, available_cores, plan_cores
from preceptor.cli.stack.layout import Layout
from preceptor.common.embedded_redis import redis_executable
from preceptor.common.ports import free_offset
from preceptor.common.supervisord import Program

_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "HF_HOME", "HF_TOKEN", "PYTHONPATH", "LD_LIBRARY_PATH", "SSL_CERT_FILE")


class ProgramFactory:
    """Builds the programs of one layout on the given cores."""

    def __init__(self, layout: Layout, cores: list[int] | None = None) -> None:
        self._layout = layout
        self._cores = cores or available_cores()
        self.plan: CorePlan = plan_cores(self._cores, layout.options.scale.get("generation", 1))

    def all(self) -> list[Program]:
        """Every program, in the order in which they are worth starting; any order works."""
        options = self._layout.options
        programs = [self._redis(), self._reward()]
        programs += [self._generation(index) for index in range(options.scale.get("generation", 1))]
        programs += [self._rollout(index) for index in range(options.scale.get("rollout", 1))]
        if options.with_feedback:
            programs += [self._feedback(), self._feedback_worker(), self._conductor()]
        if options.with_console:
            programs.append(self._console())
        return programs

    def _redis(self) -> Program:
        return Program("redis", (str(redis_executable()), str(self._layout.redis_dir / "redis.conf")), priority=100)

    def _generation(self, index: int) -> Program:
        options = self._layout.options
        policy = options.policy
        source = {"MODEL_DIR": policy} if _is_model_dir(policy) else {"RUN_ID": policy or "rl"}
        env = self._service("generation", index, 7100, 7200, self.plan.generators[index])
        env |= {f"PRECEPTOR_GENERATION_{key}": value for key, value in {**source, **options.generation_env}.items()}
        return Program(f"generation-{index}", _module("preceptor.generation"), env)

    def _rollout(self, index: int) -> Program:
        env = self._service("rollout", index, None, 7230)
        env |= {
            "PRECEPTOR_ROLLOUT_REWARD_ADDRESS": self._layout.address(7110),
            "PRECEPTOR_ROLLOUT_CONCURRENCY": str(self._layout.options.rollout_concurrency),
        }
        return Program(f"rollout-{index}", _module("preceptor.rollout.worker"), env)

    def _reward(self) -> Program:
        env = self._service("reward", None, 7110, 7210, CoreShare(self.plan.everything.cores, 1))
        env |= {
            "PRECEPTOR_REWARD_MODELS": self._layout.options.reward_models,
            "PRECEPTOR_REWARD_TRUNCATE_PROMPTS": "true",  # as the reward trainer does
        }
        return Program("reward", _module("preceptor.reward"), env)

    def _feedback(self) -> Program:
        env = self._service("feedback", None, 7120, 7220) | self._feedback_database()
        env["PRECEPTOR_FEEDBACK_ACCESS"] = "open"  # on loopback
        return Program("feedback", _module("preceptor.feedback"), env)

    def _feedback_worker(self) -> Program:
        env = self._service("feedback", None, None, 7221) | self._feedback_database()
        env["PRECEPTOR_FEEDBACK_INSTANCE"] = "feedback-worker"
        return Program("feedback-worker", _module("preceptor.feedback.worker"), env)

    def _feedback_database(self) -> dict[str, str]:
        return {"PRECEPTOR_FEEDBACK_DATABASE_URL": f"sqlite:///{self._layout.data_dir / 'feedback.sqlite'}"}

    def _conductor(self) -> Program:
        layout = self._layout
        env = self._service("conductor", None, 7150, 7250)
        env |= {
            "PRECEPTOR_CONDUCTOR_DATABASE_URL": f"sqlite:///{layout.data_dir / 'conductor.sqlite'}",
            "PRECEPTOR_CONDUCTOR_FEEDBACK_ADDRESS": layout.address(7120),
            "PRECEPTOR_CONDUCTOR_REWARD_ADDRESS": layout.address(7110),
            "PRECEPTOR_CONDUCTOR_SUPERVISOR_SOCKET": str(layout.supervisor_socket),
            "PRECEPTOR_CONDUCTOR_JOBS_DIR": str(layout.jobs_dir),
            "PRECEPTOR_CONDUCTOR_LOGS_DIR": str(layout.logs_dir),
            "PRECEPTOR_CONDUCTOR_LEARNER_PORT": str(layout.port(7140)),
            "PRECEPTOR_CONDUCTOR_LEARNER_METRICS_PORT": str(layout.port(7240)),
            "PRECEPTOR_CONDUCTOR_LEARNER_CORES": self.plan.learner.cores,
            "PRECEPTOR_CONDUCTOR_LEARNER_THREADS": str(self.plan.learner.threads),
            "PRECEPTOR_CONDUCTOR_ALL_CORES": self.plan.everything.cores,
            "PRECEPTOR_CONDUCTOR_ALL_THREADS": str(self.plan.everything.threads),
        }
        return Program("conductor", _module("preceptor.conductor"), env)

    def _console(self) -> Program:
        layout = self._layout
        env = self._service("console", None, None, 7260)
        env |= {
            "PRECEPTOR_CONSOLE_PORT": str(layout.options.console_port),
            "PRECEPTOR_CONSOLE_FEEDBACK_ADDRESS": layout.address(7120),
            "PRECEPTOR_CONSOLE_CONDUCTOR_ADDRESS": layout.address(7150),
        }
        return Program("console", _module("preceptor.console"), env)

    def learner_env(self, *, all_cores: bool) -> dict[str, str]:
        """The environment of a learner job started beside this system, with the first ports that are free."""
        share = self.plan.everything if all_cores else self.plan.learner
        layout = self._layout
        offset = free_offset(layout.options.host, (layout.port(7140), layout.port(7240)))
        env = self._service("learner", None, 7140 + offset, 7240 + offset, share)
        env["PRECEPTOR_LEARNER_REWARD_ADDRESS"] = self._layout.address(7110)
        return env

    def _service(
        self, service: str, index: int | None, port: int | None, metrics_port: int, share: CoreShare | None = None
    ) -> dict[str, str]:
        """What every service is told; a service without a core list floats over all cores with one compute thread."""
        layout = self._layout
        prefix = f"PRECEPTOR_{service.upper()}_"
        threads = share.threads if share else 1
        settings = {
            "HOST": layout.options.host,
            "METRICS_PORT": str(layout.port(metrics_port) + (index or 0)),
            "REDIS_URL": layout.redis_url,
            "ARTIFACTS_URL": layout.artifacts_url,
            "INSTANCE": service if index is None else f"{service}-{index}",
            "CPU_CORES": share.cores if share else "",
            "THREADS": str(threads),
            "LOG_FORMAT": "text",
        }
        if port is not None:
            settings["PORT"] = str(layout.port(port) + (index or 0))
        env = {prefix + key: value for key, value in settings.items()}
        return _base_env(threads) | env


def _base_env(threads: int) -> dict[str, str]:
    env = {key: os.environ[key] for key in _INHERITED if key in os.environ}
    return env | {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def _module(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name)


def _is_model_dir(policy: str) -> bool:
    return "/" in policy or (bool(policy) and Path(policy, "config.json").is_file())
