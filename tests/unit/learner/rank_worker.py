"""One rank of a PPO training for tests: `rank_worker.py MODEL_DIR PLAN`, PLAN a JSON object; see test_ranks.py."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from preceptor.learner.algorithms.ppo import Ppo
from preceptor.learner.distributed.group import membership, process_group
from preceptor.learner.distributed.ranks import this_rank
from preceptor.learner.models.engine import Engine
from preceptor.learner.run_configs.base import EngineConfig, LoraSettings
from preceptor.learner.run_configs.ppo import PpoConfig
from preceptor.learner.training.rl_trainer import RlTrainer
from tests.unit.learner.test_ppo import rollouts


def train(model_dir: Path, plan: dict[str, Any]) -> list[dict[str, float]]:
    """Steps the plan's steps, from `load` on if given; saves to `save`, exports to `export`; returns the metrics."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    engine = Engine(EngineConfig(**plan.get("engine", {})), ranks=this_rank(torch.device("cpu")))
    lora = LoraSettings(rank=4) if plan.get("lora") else None
    config = PpoConfig.model_validate(plan["update"])
    trainer = RlTrainer(Ppo(config), model_dir, reference_dir=model_dir, seed=7, engine=engine, lora=lora)
    if "load" in plan:
        trainer.load(Path(plan["load"]))
    series = []
    for step in range(*plan["steps"]):
        result = trainer.step(rollouts(model_dir, seed=step, version=step), policy_version=step)
        assert not result.skipped, result.reasons
        series.append(result.metrics)
    if "save" in plan:
        trainer.save(Path(plan["save"]))
    if "export" in plan:
        trainer.export(Path(plan["export"]))
    return series


if __name__ == "__main__":
    member = membership(os.environ)
    with process_group(member):
        found = train(Path(sys.argv[1]), json.loads(sys.argv[2]))
    if member.leads:
        sys.stdout.write(json.dumps(found))
