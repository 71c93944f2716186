import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from preceptor.common.errors import InvalidInput, NotFound
from preceptor.reward.adapters.torch_model import TorchRewardModel, load_torch_model, read_card
from preceptor.reward.types import ScoreItem
from tests.support.models import build_policy, build_reward_model

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_reward_model(tmp_path_factory.mktemp("models") / "rm")


def load(path: Path, *, max_input_tokens: int = 0, truncate_prompts: bool = False) -> TorchRewardModel:
    return load_torch_model(
        path, device="cpu", dtype="auto", max_input_tokens=max_input_tokens, truncate_prompts=truncate_prompts
    )


def test_scores_are_those_of_transformers_one_sequence_at_a_time(folder: Path) -> None:
    model = load(folder)
    peer = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    items = [ScoreItem("say: ", " ".join(WORDS[: n + 1]), truncated=n % 2 == 0) for n in range(8)]
    sequences = [model.encode(item) for item in items]
    with torch.no_grad():
        expected = [float(peer(torch.tensor([ids])).logits[0, 0]) for ids in sequences]
    assert model.forward(sequences) == pytest.approx(expected, abs=1e-5)


def test_a_sequence_that_ends_in_padding_ids_is_scored_at_its_own_last_token(folder: Path) -> None:
    """Where pad is EOS, transformers' own pooling would read the token before EOS."""
    model = load(folder)
    pad = 0
    short, long = [7, 8, pad, pad], [7, 8, 9, 10, 11, 12]
    alone = [model.forward([ids])[0] for ids in (short, long)]
    assert model.forward([short, long]) == pytest.approx(alone, abs=1e-5)
    assert model.forward([short])[0] != pytest.approx(model.forward([short[:2]])[0], abs=1e-6)


def test_padding_of_other_sequences_does_not_change_a_score(folder: Path) -> None:
    model = load(folder)
    (alone,) = model.forward([[5, 6, 7]])
    (together, _) = model.forward([[5, 6, 7], list(range(3, 200))])
    assert together == pytest.approx(alone, abs=1e-5)


def test_the_models_own_context_is_the_limit(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="takes at most 512") as error:
        load(folder).encode(ScoreItem("fox " * 600, "x"))
    assert error.value.reason == "PROMPT_TOO_LONG"


def test_a_long_prompt_loses_its_beginning_where_that_is_asked_for(folder: Path) -> None:
    model = load(folder, max_input_tokens=20, truncate_prompts=True)
    whole = load(folder).encode(ScoreItem("fox " * 100, "the end"))
    assert model.encode(ScoreItem("fox " * 100, "the end")) == whole[-20:]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"has no config\.json"):
        load(tmp_path / "nowhere")


def test_a_policy_is_no_reward_model(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"LlamaForCausalLM.*num_labels 1"):
        load(build_policy(tmp_path / "policy"))


def test_broken_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "rm")
    weights = tmp_path / "rm" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InvalidInput, match="does not load as a reward model"):
        load(tmp_path / "rm")


def test_missing_tensors_are_refused_and_never_made_up(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "rm")
    weights = tmp_path / "rm" / "model.safetensors"
    tensors = load_file(weights)
    tensors.pop("score.weight")
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(InvalidInput, match=r"lacks score\.weight"):
        load(tmp_path / "rm")


def test_the_card_normalises(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps({"score_mean": 2.0, "score_sd": 4.0, "reward_model_version": 3}))
    normalisation, version = read_card(tmp_path)
    assert (normalisation.apply(10.0), version) == (2.0, 3)


def test_without_a_card_raw_scores_are_served(tmp_path: Path) -> None:
    normalisation, version = read_card(tmp_path)
    assert (normalisation.apply(10.0), version) == (10.0, 0)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"score_mean": 1}',
        '{"score_mean": 0, "score_sd": 0}',
        '{"score_mean": 0, "score_sd": -1}',
        '{"score_mean": NaN, "score_sd": 1}',
        '{"score_mean": "high", "score_sd": 1}',
    ],
)
def test_a_card_that_is_wrong_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(InvalidInput, match=r"card\.json"):
        read_card(tmp_path)
