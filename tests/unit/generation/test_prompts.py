import pytest

from preceptor.common.errors import InvalidInput
from preceptor.generation.prompts import tokenize
from preceptor.generation.types import Conversation, Prompt, TokenIds, Turn
from tests.unit.generation.scripted import LIMITS, LetterCodec


def test_each_kind_of_prompt_becomes_token_ids() -> None:
    codec = LetterCodec()
    assert tokenize("abc", codec, LIMITS) == [0, 1, 2]
    assert tokenize(Conversation((Turn("user", "ab"), Turn("user", "c"))), codec, LIMITS) == [0, 1, 2]
    assert tokenize(TokenIds([5, 99]), codec, LIMITS) == [5, 99]


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        (None, "prompt"),
        ("", "prompt.text"),
        (Conversation(()), "prompt.conversation"),
        (TokenIds([]), "prompt.token_ids"),
        (TokenIds([1, 100]), "prompt.token_ids[1]"),
        (TokenIds([-1]), "prompt.token_ids[0]"),
        ("a" * 64, "prompt.text"),
        (TokenIds([1] * 64), "prompt.token_ids"),
    ],
)
def test_a_bad_prompt_names_its_field(prompt: Prompt | None, field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        tokenize(prompt, LetterCodec(), LIMITS)
    assert error.value.field == field


def test_the_longest_prompt_leaves_room_for_one_token() -> None:
    assert len(tokenize("a" * 63, LetterCodec(), LIMITS)) == 63
    with pytest.raises(InvalidInput, match="has 64 tokens: at most 63 fit a context of 64"):
        tokenize("a" * 64, LetterCodec(), LIMITS)
