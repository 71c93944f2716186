"""How much completions repeat themselves and one another."""

from collections.abc import Sequence

from preceptor.learner.types import Experience


def repeated_ngrams(token_ids: Sequence[int], n: int) -> float:
    """Returns the share of a completion's n-grams that stand in it more than once, all but the first counted; 0 where
    it has none.
    """
    ngrams = [tuple(token_ids[i : i + n]) for i in range(len(token_ids) - n + 1)]
    return 1.0 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def completion_metrics(experiences: Sequence[Experience], *, ngram: int) -> dict[str, float]:
    """Returns, over the batch's rollouts, the mean share of repeated n-grams, the share of distinct completions and the
    mean length in tokens.
    """
    completions = [experience.token_ids for experience in experiences]
    count = len(completions)
    return {
        "completions/repeated_ngrams": sum(repeated_ngrams(ids, ngram) for ids in completions) / count,
        "completions/distinct_share": len(set(completions)) / count,
        "completions/mean_length": sum(len(ids) for ids in completions) / count,
    }
