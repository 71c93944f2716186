"""Everything a demo run starts from, written into one folder: corpus, prompts, untrained model, loop config."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from preceptor.demo import world
from preceptor.demo.profiles import Profile

THREADS = 2  # a million parameters keep no more busy, and more of them wait for each other on a loaded machine

GUIDELINES = """\
You read a customer's complaint and several replies of a support desk. Put first the reply that you
would rather receive.

- Kind beats neutral, neutral beats rude: both at the start and at the end.
- It names **your** item, and says what to do about **your** problem.
- It says everything once, says nothing beside the point, and ends with a whole sentence.
"""


@dataclass(frozen=True, slots=True)
class Assets:
    """Where `build_assets` put things."""

    directory: Path

    @property
    def corpus(self) -> Path:
        return self.directory / "corpus.jsonl"

    @property
    def train_prompts(self) -> Path:
        return self.directory / "prompts_train.jsonl"

    @property
    def held_out_prompts(self) -> Path:
        return self.directory / "prompts_held_out.jsonl"

    @property
    def model_init(self) -> Path:
        return self.directory / "model_init"

    @property
    def loop_yaml(self) -> Path:
        return self.directory / "loop.yaml"

    def read_held_out(self) -> list[str]:
        """The held-out prompts in order."""
        with self.held_out_prompts.open(encoding="utf-8") as file:
            return [json.loads(line)["prompt"] for line in file]


def build_assets(
    directory: Path, profile: Profile, seed: int, *, rl: bool = True, sft_model: Path | None = None
) -> Assets:
    """Writes a demo's files; the same arguments write the same files.

    Args:
        rl: False leaves the rl stages out.
        sft_model: what an earlier demo's sft run made; the loop then starts from it and has no sft stage.
    """
    from preceptor.demo.model import save_untrained_model  # torch; only a build needs it
    from preceptor.demo.tokenizer import train_tokenizer

    assets = Assets(directory.resolve())
    assets.directory.mkdir(parents=True, exist_ok=True)
    train, held_out = world.split_cases(seed, profile.held_out_prompts)
    rows = [(case.prompt(), reply) for case, reply in world.corpus(train, profile.corpus_size, seed)]
    _write_jsonl(assets.corpus, ({"prompt": prompt, "completion": reply} for prompt, reply in rows))
    for path, cases in ((assets.train_prompts, train), (assets.held_out_prompts, held_out)):
        _write_jsonl(path, ({"prompt_id": case.prompt_id, "prompt": case.prompt()} for case in cases))
    tokenizer = train_tokenizer(prompt + reply for prompt, reply in rows[:8000])
    save_untrained_model(tokenizer, assets.model_init, seed)
    assets.loop_yaml.write_text(
        yaml.safe_dump(loop_config(assets, profile, seed, rl=rl, sft_model=sft_model), sort_keys=False),
        encoding="utf-8",
    )
    return assets


def loop_config(
    assets: Assets, profile: Profile, seed: int, *, rl: bool, sft_model: Path | None = None
) -> dict[str, Any]:
    """The loop's YAML as a mapping."""
    start: dict[str, Any] = {"sft": {"run": sft_config(assets, profile, seed)}}
    if sft_model is not None:
        start = {"initial_model": str(sft_model.resolve())}
    config: dict[str, Any] = {
        "project": {"project_id": "demo", "title": "Support replies (demo)", "guidelines": GUIDELINES},
        "iterations": profile.iterations,
        "seed": seed,
        "prompts": str(assets.train_prompts),
        **start,
        "collect": {
            "n": profile.group_size,
            "max_tokens": profile.max_tokens,
            "comparisons": profile.comparisons,
            "full_overlap_share": 0.2,
            "full_overlap": 3,
            "concurrency": 24,
        },
        "labels": {"targets": list(profile.label_targets), "timeout_s": 600},
        "reward": {
            "run": reward_config(profile, seed),
            "gate": {"min_heldout_accuracy": profile.min_heldout_accuracy},
        },
    }
    if rl:
        config["rl"] = {"run": rl_config(profile, seed), "steps": list(profile.rl_steps)}
    return config


def sft_config(assets: Assets, profile: Profile, seed: int) -> dict[str, Any]:
    """Fields of the sft run."""
    return {
        "seed": seed,
        "threads": THREADS,
        "model": {"path": str(assets.model_init)},
        "data": [str(assets.corpus)],
        "eval_fraction": 0.01,
        "max_length": 128,
        "epochs": 1,
        "batch_size": 32,
        "optimizer": {
            "learning_rate": profile.sft_learning_rate,
            "schedule": "cosine",
            "warmup_steps": 50,
            "final_fraction": 0.05,
            "weight_decay": 0.01,
        },
    }


def reward_config(profile: Profile, seed: int) -> dict[str, Any]:
    """Fields of the reward runs; the conductor adds model, data and labels."""
    return {
        "seed": seed,
        "threads": THREADS,
        "max_length": 128,
        "epochs": profile.reward_epochs,
        "batch_size": 16,
        "eval_fraction": 0.2,
        "normalise_on": "initial_policy",
        "initial_policy_version": 0,
        "optimizer": {"learning_rate": profile.reward_learning_rate, "schedule": "linear", "warmup_steps": 5},
    }


def rl_config(profile: Profile, seed: int) -> dict[str, Any]:
    """Fields of the rl run; the conductor adds the models, the prompts and the length."""
    control = min(0.15, profile.live_share)
    return {
        "seed": seed,
        "batch_size": profile.batch_size,
        "group_size": profile.group_size,
        "max_staleness": 1,
        "sampling": {"temperature": 1.0, "max_tokens": profile.max_tokens},
        "attempt_deadline_s": 60.0,
        "critic_warmup_steps_after_switch": 1,
        "feedback": {"share": round(profile.live_share - control, 6), "control_share": control},
        "checkpoint": {"every_steps": 5, "keep": 2},
        "publish": {"keep_versions": 8},
        "ppo": {
            "epochs": 2,
            "minibatches": 2,
            "clip": 0.2,
            "lam": 0.95,
            "gamma": 1.0,
            "missing_eos_penalty": 1.0,
            "kl": {"coef": profile.kl_coef, "estimator": "k1", "controller": "fixed"},
            "optimizer": {"learning_rate": profile.policy_learning_rate, "eps": 1e-5},
            "critic_optimizer": {"learning_rate": profile.critic_learning_rate, "eps": 1e-5},
        },
    }


def _write_jsonl(path: Path, rows: Iterable[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
