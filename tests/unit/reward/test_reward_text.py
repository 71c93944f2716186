from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor.common.errors import InvalidInput
from preceptor.common.reward_text import encode_reward_input
from tests.support.models import END, build_tokenizer

TURNS = [{"role": "user", "content": "a question"}]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_text_is_joined_as_it_stands_and_ends_with_eos(tokenizer: Any) -> None:
    ids = encode_reward_input(tokenizer, prompt="the quick", completion=" brown fox", finished=True)
    assert tokenizer.decode(ids) == "the quick brown fox" + END
    assert ids[:-1] == tokenizer.encode("the quick brown fox")


def test_a_completion_that_was_cut_off_has_no_eos(tokenizer: Any) -> None:
    ids = encode_reward_input(tokenizer, prompt="the quick", completion=" brown fox", finished=False)
    assert tokenizer.decode(ids) == "the quick brown fox"


def test_eos_is_never_doubled(tokenizer: Any) -> None:
    ids = encode_reward_input(tokenizer, prompt="the", completion=" fox" + END, finished=True)
    assert ids.count(tokenizer.eos_token_id) == 1


def test_a_conversation_is_rendered_with_the_template(tokenizer: Any) -> None:
    ids = encode_reward_input(tokenizer, prompt=TURNS, completion="an answer", finished=True)
    assert tokenizer.decode(ids) == "<|user|>a question<|assistant|>an answer" + END
    cut = encode_reward_input(tokenizer, prompt=TURNS, completion="an ans", finished=False)
    assert tokenizer.decode(cut) == "<|user|>a question<|assistant|>an ans"


def test_a_template_that_ends_in_a_newline_is_scored_on_the_end_mark(tokenizer: Any, tmp_path: Path) -> None:
    other = build_tokenizer(tmp_path)
    other.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}<|end|>\n{% endfor %}"
    ids = encode_reward_input(other, prompt=TURNS, completion="an answer", finished=True)
    assert ids[-1] == other.eos_token_id
    assert other.decode(ids) == "[user] a question<|end|>\n[assistant] an answer<|end|>"


def test_no_chat_template_is_a_clear_error(tmp_path: Path) -> None:
    bare = build_tokenizer(tmp_path)
    bare.chat_template = None
    with pytest.raises(InvalidInput) as error:
        encode_reward_input(bare, prompt=TURNS, completion="x", finished=True)
    assert error.value.reason == "NO_CHAT_TEMPLATE"


def test_a_template_that_refuses_the_roles_is_a_clear_error(tmp_path: Path) -> None:
    strict = build_tokenizer(tmp_path)
    strict.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InvalidInput, match="roles must alternate"):
        encode_reward_input(strict, prompt=TURNS, completion="x", finished=True)


def test_too_long_is_refused_with_both_numbers(tokenizer: Any) -> None:
    with pytest.raises(InvalidInput, match="takes at most 4") as error:
        encode_reward_input(tokenizer, prompt="fox " * 50, completion="x", finished=True, max_tokens=4)
    assert error.value.reason == "PROMPT_TOO_LONG"


def test_a_completion_that_fills_the_limit_alone_is_refused_even_when_truncating(tokenizer: Any) -> None:
    with pytest.raises(InvalidInput, match="the completion alone"):
        encode_reward_input(
            tokenizer, prompt="p", completion="fox " * 50, finished=True, max_tokens=10, truncate_prompt=True
        )


def test_nothing_at_all_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InvalidInput, match="both empty"):
        encode_reward_input(tokenizer, prompt="", completion="", finished=False)


@given(st.text(max_size=60), st.text(max_size=60), st.booleans())
def test_any_text_survives(prompt: str, completion: str, finished: bool) -> None:
    tokenizer = _Codepoints()
    text = prompt + completion
    if not text and not finished:
        return
    ids = encode_reward_input(tokenizer, prompt=prompt, completion=completion, finished=finished)
    assert "".join(chr(i) for i in ids if i >= 0) == text
    assert (ids[-1] == -1) == finished


class _Codepoints:
    eos_token_id = -1
    bos_token_id = None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [ord(character) for character in text]

    def apply_chat_template(self, *_: Any, **__: Any) -> str:
        raise ValueError("no template")
