"""Records TRL's DPO losses on fixed tensors, for tests/unit/learner/test_dpo.py. Run it in TRL's own environment:

python -m venv trl && trl/bin/pip install torch==2.13.0 trl==1.16.0 && trl/bin/python scripts/record_trl_dpo.py OUT.json

The trainer is TRL's; its models are replaced by recorded per-token logprobs, so that its loss alone is what is taken.
"""

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers

PAIRS, TOKENS = 4, 7
CASES = (
    ("sigmoid", 0.1, 0.0),
    ("sigmoid", 0.5, 0.0),
    ("robust", 0.1, 0.2),
    ("robust", 0.5, 0.05),
    ("ipo", 0.1, 0.0),
    ("ipo", 0.4, 0.0),
)


def tokenizer():
    core = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "a": 2, "b": 3}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")


def trainer(loss, beta, label_smoothing):
    config = transformers.LlamaConfig(
        vocab_size=4,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
        eos_token_id=1,
    )
    args = trl.DPOConfig(
        tempfile.mkdtemp(),
        loss_type=[loss],
        beta=beta,
        label_smoothing=label_smoothing,
        use_cpu=True,
        bf16=False,
        report_to=[],
    )
    rows = Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " a"}] * 2)
    model = transformers.LlamaForCausalLM(config)
    reference = transformers.LlamaForCausalLM(config)
    return trl.DPOTrainer(model, reference, args=args, train_dataset=rows, processing_class=tokenizer())


def fixed(logprobs):
    """Stands for a model: the outputs that TRL reads, whatever it is asked."""
    zeros = torch.zeros_like(logprobs)
    return lambda **_: SimpleNamespace(log_probs=logprobs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())


def main(out):
    generator = torch.Generator().manual_seed(0)
    rows, width = 2 * PAIRS, TOKENS + 1
    lengths = torch.randint(1, TOKENS, (rows,), generator=generator)
    mask = torch.zeros(rows, width, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, 2 : 2 + length] = 1
    counts = mask[:, 1:].bool()
    policy, reference = (-3 * torch.rand(rows, width - 1, generator=generator) * counts for _ in range(2))
    inputs = {"input_ids": mask + 1, "attention_mask": torch.ones_like(mask), "completion_mask": mask}
    cases = []
    for loss, beta, label_smoothing in CASES:
        one = trainer(loss, beta, label_smoothing)
        one.ref_model = fixed(reference)
        value = one._compute_loss(fixed(policy), dict(inputs), return_outputs=False)
        cases.append({"loss": loss, "beta": beta, "label_smoothing": label_smoothing, "value": float(value)})
    made_by = {"trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    record = {
        "made_by": {"script": "scripts/record_trl_dpo.py", **made_by},
        "tokens": counts.sum(1).tolist(),
        "policy": policy.tolist(),
        "reference": reference.tolist(),
        "cases": cases,
    }
    Path(out).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
