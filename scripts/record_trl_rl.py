"""Records what TRL's PPO, GRPO and RLOO make of fixed tensors, for tests/unit/learner/test_trl.py.

TRL has no PPO since 1.13.0, so two runs in TRL's own environment, the second with the 1.12.0 wheel first on the path:

python -m venv trl && trl/bin/pip install torch==2.13.0 trl==1.16.0
trl/bin/pip download --no-deps trl==1.12.0 && python -m zipfile -e trl-1.12.0-py3-none-any.whl trl112
trl/bin/python scripts/record_trl_rl.py grpo OUT.json
PYTHONPATH=trl112 trl/bin/python scripts/record_trl_rl.py ppo OUT.json

Every number is from TRL's own code. GRPO's and RLOO's `_compute_loss` is called with recorded logprobs in the place of
a model's, and their advantages are taken where TRL computes them, with recorded rewards. PPO's are the local variables
of `PPOTrainer.train`, one real update of a tiny model, at the moment it calls `backward`.
"""

import collections
import json
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "CUDA_VISIBLE_DEVICES": ""}

import datasets
import tokenizers
import torch
import transformers
import trl

ROWS, TOKENS, LONGEST = 6, 5, 8
GRPO_CASES = [
    {"loss_type": kind, "beta": beta, "epsilon_high": high, "use_bias_correction_kl": weighted}
    for kind in ("grpo", "dapo", "dr_grpo")
    for beta, high, weighted in ((0.0, 0.2, True), (0.1, 0.28, True), (0.1, 0.28, False))
]


def tokenizer():
    words = {"<pad>": 0, "<eos>": 1, **{chr(97 + i): 2 + i for i in range(26)}}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def model_config(**extra):
    return transformers.LlamaConfig(
        vocab_size=28,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        **extra,
    )


def drawn():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([5, 3, 1, 4, 2, 5])
    mask = (torch.arange(TOKENS)[None, :] < lengths[:, None]).long()
    old = (-3 * torch.rand(ROWS, TOKENS, generator=generator)).double()
    new = old + (0.5 * torch.rand(ROWS, TOKENS, generator=generator) - 0.25).double()
    reference = old + (0.4 * torch.rand(ROWS, TOKENS, generator=generator) - 0.2).double()
    advantages = torch.randn(ROWS, generator=generator).double()
    weights = (0.5 + torch.rand(ROWS, TOKENS, generator=generator)).double()
    return mask, old, new, reference, advantages, weights


def stand_in(trainer, logprobs, **settings):
    """What `_compute_loss` reads of its trainer."""
    nothing = collections.defaultdict(list)
    identity = SimpleNamespace(
        num_processes=1,
        gather=lambda x: x,
        gather_for_metrics=lambda x: x,
        reduce=lambda x, reduction: x,
    )
    fake = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None),
        model=SimpleNamespace(training=True),
        accelerator=identity,
        args=SimpleNamespace(delta=None, steps_per_generation=1, use_bias_correction_kl=True),
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        epsilon_low=0.2,
        epsilon_high=0.2,
        max_completion_length=LONGEST,
        current_gradient_accumulation_steps=1,
        aux_loss_enabled=False,
        use_vllm=True,
        vllm_importance_sampling_correction=True,
        _entropy_bonus_enabled=False,
        entropy_coef=0.0,
        beta=0.0,
        _metrics={"train": nothing, "eval": nothing},
    )
    fake.args.use_bias_correction_kl = settings.pop("use_bias_correction_kl", True)
    vars(fake).update(settings)
    return fake


def loss_and_gradient(trainer, inputs, new, **settings):
    leaf = new.clone().requires_grad_()
    loss = trainer._compute_loss(stand_in(trainer, leaf, **settings), None, inputs)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return {"value": float(loss.detach()), "gradient": gradient.tolist()}


def losses():
    mask, old, new, reference, advantages, weights = drawn()
    inputs = {
        "prompt_ids": torch.ones(ROWS, 2, dtype=torch.long),
        "prompt_mask": torch.ones(ROWS, 2, dtype=torch.long),
        "completion_ids": mask + 1,
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "importance_sampling_ratio": weights,
        "num_items_in_batch": mask.sum(),
        "old_logps": (old * mask).sum(1),
    }
    cases = [{**case, **loss_and_gradient(trl.GRPOTrainer, inputs, new, **case)} for case in GRPO_CASES]
    return {
        "mask": mask.tolist(),
        "old": old.tolist(),
        "new": new.tolist(),
        "reference": reference.tolist(),
        "advantages": advantages.tolist(),
        "weights": weights.tolist(),
        "grpo": cases,
        "rloo": loss_and_gradient(trl.RLOOTrainer, inputs, new),
        "max_completion_length": LONGEST,
    }


def advantages_of(trainer_class, config_class, scores, **settings):
    """TRL's advantages of two groups of four with these scores."""
    folder = tempfile.mkdtemp()
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(model_config()).save_pretrained(folder)
    args = config_class(
        tempfile.mkdtemp(),
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=4,
        max_steps=1,
        beta=0.0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        **settings,
    )
    trainer = trainer_class(
        model=transformers.LlamaForCausalLM.from_pretrained(folder),
        reward_funcs=lambda completions, **_: scores,
        args=args,
        train_dataset=datasets.Dataset.from_dict({"prompt": ["a b", "c d"]}),
        processing_class=tokenizer(),
    )
    found = []
    original = trainer._generate_and_score_completions

    def watched(inputs):
        output = original(inputs)
        found.append(output["advantages"].tolist())
        return output

    trainer._generate_and_score_completions = watched
    trainer.train()
    return found[0]


def record_grpo():
    scores = [0.5, -1.0, 2.0, 0.25, 3.0, 3.0, 1.0, -2.0]
    scaled = {
        scale: advantages_of(trl.GRPOTrainer, trl.GRPOConfig, scores, scale_rewards=scale)
        for scale in ("group", "batch", "none")
    }
    loo = advantages_of(trl.RLOOTrainer, trl.RLOOConfig, scores)
    return {**losses(), "scores": scores, "groups_of": 4, "grpo_advantages": scaled, "rloo_advantages": loo}


class Reward(torch.nn.Module):
    """TRL's PPO takes a module: ids come through as hidden states, and `score` makes numbers of them."""

    base_model_prefix = "body"

    class Body(torch.nn.Module):
        def forward(self, input_ids=None, **_):
            return SimpleNamespace(hidden_states=[input_ids])

    def __init__(self):
        super().__init__()
        self.body = self.Body()

    def score(self, ids):
        return ((ids % 7).double().cumsum(1) / 10 - 1).float()[..., None]


PPO_LOCALS = (
    "scores", "logprobs", "ref_logprobs", "kl", "values", "rewards", "advantages", "returns", "padding_mask",
    "padding_mask_p1", "sequence_lengths", "new_logprobs", "mb_logprobs", "mb_advantage", "vpred", "mb_values",
    "mb_return", "micro_batch_inds", "pg_loss", "vf_loss", "vf_clipfrac",
)  # fmt: skip


def record_ppo():
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    torch.manual_seed(0)
    tok = tokenizer()
    policy, value = (
        transformers.LlamaForCausalLM(model_config()),
        transformers.LlamaForSequenceClassification(model_config(num_labels=1)),
    )
    reference = transformers.LlamaForCausalLM(model_config())
    args = PPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=8,
        gradient_accumulation_steps=1,
        num_ppo_epochs=3,
        num_mini_batches=1,
        total_episodes=8,
        response_length=6,
        kl_coef=0.05,
        cliprange=0.05,
        cliprange_value=0.1,
        gamma=0.95,
        lam=0.9,
        temperature=1.0,
        learning_rate=0.05,
        missing_eos_penalty=None,
        stop_token=None,
        num_sample_generations=0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
    )
    rows = datasets.Dataset.from_list([{"input_ids": [2 + i, 3 + i, 4 + i]} for i in range(8)])
    trainer = PPOTrainer(
        args=args,
        processing_class=tok,
        model=policy,
        ref_model=reference,
        reward_model=Reward(),
        value_model=value,
        train_dataset=rows,
        eval_dataset=rows,
    )
    steps = []
    original = trainer.accelerator.backward

    def watched(loss, **options):
        names = sys._getframe(1).f_locals
        found = {name: _plain(names[name]) for name in PPO_LOCALS if name in names}
        steps.append(found | {"loss": float(loss.detach())})
        return original(loss, **options)

    trainer.accelerator.backward = watched
    trainer.train()
    settings = ("kl_coef", "cliprange", "cliprange_value", "gamma", "lam", "vf_coef")
    return {"settings": {name: getattr(args, name) for name in settings}, "steps": steps}


def _plain(value):
    return value.tolist() if hasattr(value, "tolist") else value


def main(kind, out):
    made_by = {"trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    record = {"made_by": {"script": "scripts/record_trl_rl.py", **made_by}}
    record |= record_ppo() if kind == "ppo" else record_grpo()
    Path(out).write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
