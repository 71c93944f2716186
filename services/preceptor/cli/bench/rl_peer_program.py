"""TRL's trainers, timed. Runs in TRL's own environment, so it imports nothing of this package:

python rl_peer_program.py JOB.json OUT.json

JOB: {algorithm: grpo | rloo | ppo, model, batch, group, prompts, completion_tokens, epochs, steps, threads,
learning_rate, reward: "file.py:function", seed?, kl?}; PPO needs TRL 1.12's package first on PYTHONPATH.
OUT: {trl, torch, transformers, seconds: of every step's end since the first began, scores: mean reward of every step}.
"""

import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "CUDA_VISIBLE_DEVICES": ""}

import torch
import transformers
import trl
from datasets import Dataset


def main(job_path, out_path):
    job = json.loads(Path(job_path).read_text())
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job.get("seed", 0))
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["model"], padding_side="left")
    clock = Clock()
    trainer = (ppo if job["algorithm"] == "ppo" else grouped)(job, tokenizer, reward_of(job["reward"]), clock)
    clock.begin()
    trainer.train()
    versions = {"trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    Path(out_path).write_text(json.dumps({**versions, "seconds": clock.ends, "scores": clock.scores}))


class Clock(transformers.TrainerCallback):
    """When each batch of rollouts was trained on to its end, and its mean reward."""

    def __init__(self):
        self.started, self.ends, self.scores = 0.0, [], []

    def begin(self):
        self.started = time.perf_counter()

    def on_log(self, args, state, control, logs=None, **_):
        score = (logs or {}).get("reward", (logs or {}).get("objective/scores"))
        if score is not None:
            self.ends.append(time.perf_counter() - self.started)
            self.scores.append(float(score))


def reward_of(spec):
    """The function of "file.py:function"; it takes prompts and completions."""
    path, _, name = spec.rpartition(":")
    loaded = importlib.util.spec_from_file_location("bench_reward", path)
    module = importlib.util.module_from_spec(loaded)
    loaded.loader.exec_module(module)
    return getattr(module, name)


def common(job):
    return {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": job["batch"],
        "gradient_accumulation_steps": 1,
        "learning_rate": job["learning_rate"],
        "seed": job.get("seed", 0),
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
    }


def grouped(job, tokenizer, reward, clock):
    """GRPO and RLOO of TRL 1.16."""
    config, trainer = (
        (trl.GRPOConfig, trl.GRPOTrainer) if job["algorithm"] == "grpo" else (trl.RLOOConfig, trl.RLOOTrainer)
    )
    args = config(
        **common(job),
        max_steps=job["steps"] * job["epochs"],
        num_generations=job["group"],
        max_completion_length=job["completion_tokens"],
        num_iterations=job["epochs"],
        beta=0.05,
        temperature=1.0,
    )
    policy = transformers.AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)

    def scored(prompts, completions, **_):
        return reward(prompts=prompts, completions=completions)

    return trainer(
        model=policy,
        reward_funcs=scored,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": job["prompts"]}),
        processing_class=tokenizer,
        callbacks=[clock],
    )


def ppo(job, tokenizer, reward, clock):
    """PPO of TRL 1.12: its last, as trl.experimental.ppo."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    args = PPOConfig(
        **common(job),
        num_ppo_epochs=job["epochs"],
        num_mini_batches=1,
        total_episodes=job["steps"] * job["batch"],
        response_length=job["completion_tokens"],
        local_rollout_forward_batch_size=job["batch"],
        kl_coef=job.get("kl", 0.05),
        temperature=1.0,
        num_sample_generations=0,
        stop_token="eos",
        missing_eos_penalty=None,
    )
    rows = [{"input_ids": tokenizer(prompt)["input_ids"]} for prompt in job["prompts"]]
    prompt_tokens = len(rows[0]["input_ids"])
    data = Dataset.from_list(rows)
    policy, reference = (
        transformers.AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32) for _ in range(2)
    )
    value = transformers.AutoModelForSequenceClassification.from_pretrained(
        job["model"], num_labels=1, dtype=torch.float32
    )
    return PPOTrainer(
        args=args,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=FunctionAsModel(tokenizer, reward, prompt_tokens),
        value_model=value,
        train_dataset=data,
        eval_dataset=data.select(range(min(len(rows), job["batch"]))),
        callbacks=[clock],
    )


class FunctionAsModel(torch.nn.Module):
    """A reward function where TRL's PPO wants a model: the ids go through as hidden states, `score` decodes them."""

    base_model_prefix = "body"

    class Body(torch.nn.Module):
        def forward(self, input_ids=None, **_):
            return type("Output", (), {"hidden_states": [input_ids]})()

    def __init__(self, tokenizer, reward, prompt_tokens):
        super().__init__()
        self.body, self.unused = self.Body(), torch.nn.Parameter(torch.zeros(1), requires_grad=False)
        self.tokenizer, self.reward, self.prompt_tokens = tokenizer, reward, prompt_tokens

    def score(self, ids):
        prompts, completions = (
            self.tokenizer.batch_decode(part, skip_special_tokens=True)
            for part in (ids[:, : self.prompt_tokens], ids[:, self.prompt_tokens :])
        )
        scores = torch.tensor(self.reward(prompts=prompts, completions=completions))
        return scores[:, None, None].expand(-1, ids.shape[1], 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
