"""Guards: what raises them, what stays quiet, what survives a checkpoint."""

import json

import pytest

from preceptor.learner.guards.measures import completion_metrics, repeated_ngrams
from preceptor.learner.guards.watch import Finding, Guards, worst
from preceptor.learner.run_configs.guards import GuardsConfig, SelfCheckConfig
from preceptor.learner.types import Experience

USUAL = {"objective/kl": 3.0, "loss/policy_avg": 0.01, "policy/grad_norm": 1.0, "policy/entropy_avg": 2.0}


def experience(*token_ids: int) -> Experience:
    return Experience("r", "g", 0, (1,), token_ids, (0.0,) * len(token_ids), ((0, 0, len(token_ids)),), 0.0, True, 1)


VARIED = [experience(*range(10 * n, 10 * n + 10)) for n in range(8)]


def guards(**changes) -> Guards:
    return Guards(GuardsConfig.model_validate({"start_steps": 3, **changes}))


def after(steps: int, watch: Guards, metrics=USUAL, batch=VARIED) -> Guards:
    for step in range(1, steps + 1):
        found, _ = watch.observe(step, metrics, batch)
        assert found == []
    return watch


def raised(watch: Guards, metrics=USUAL, batch=VARIED, step: int = 50) -> list[str]:
    return [finding.guard for finding in watch.observe(step, metrics, batch)[0]]


def test_repeated_ngrams_by_hand():
    assert repeated_ngrams([1, 2, 1, 2, 1], 2) == pytest.approx(0.5)  # 12 21 12 21: two of four are repeats
    assert repeated_ngrams([1, 2, 3], 4) == 0.0
    assert repeated_ngrams([7] * 10, 4) == pytest.approx(6 / 7)


def test_completion_metrics_are_means_over_rollouts():
    metrics = completion_metrics([experience(1, 1, 1), experience(1, 1, 1), experience(1, 2, 3, 4, 5)], ngram=1)
    assert metrics["completions/distinct_share"] == pytest.approx(2 / 3)
    assert metrics["completions/mean_length"] == pytest.approx(11 / 3)
    assert metrics["completions/repeated_ngrams"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)


@pytest.mark.parametrize(
    ("metrics", "guard"),
    [
        ({"objective/kl": 150.0}, "kl"),
        ({"policy/grad_norm": 25.0}, "spike"),
        ({"loss/policy_avg": -0.5}, "spike"),
        ({"policy/entropy_avg": 0.05}, "entropy"),
    ],
)
def test_metrics_that_raise_a_guard(metrics, guard):
    assert raised(after(10, guards()), {**USUAL, **metrics}) == [guard]


@pytest.mark.parametrize(
    ("batch", "guard"),
    [
        ([experience(*[n] * 10) for n in range(8)], ["repetition"]),
        ([experience(n) for n in range(8)], ["length"]),
        ([experience(*range(200 * n, 200 * n + 120)) for n in range(8)], ["length"]),
        ([experience(*range(10))] * 8, []),  # 1/8 is not below a tenth
        ([experience(*range(10))] * 20, ["diversity"]),
    ],
)
def test_completions_that_raise_a_guard(batch, guard):
    assert raised(after(10, guards(length={"low": 0.2})), batch=batch) == guard


def test_nothing_is_raised_before_there_is_a_start_to_compare_with():
    watch = guards()
    assert raised(watch, {**USUAL, "policy/grad_norm": 1e9}, step=1) == []
    assert raised(watch, {**USUAL, "policy/entropy_avg": 1e-9}, step=2) == []


def test_policies_decide_what_is_done_and_off_hides_it():
    watch = after(10, guards(kl={"policy": "roll_back"}, spike={"policy": "off"}, entropy={"policy": "stop"}))
    bad = {"objective/kl": 150.0, "policy/grad_norm": 900.0, "policy/entropy_avg": 0.01}
    found, metrics = watch.observe(11, {**USUAL, **bad}, VARIED)
    assert [(finding.guard, finding.policy) for finding in found] == [("kl", "roll_back"), ("entropy", "stop")]
    assert worst(found) == found[1]
    assert worst([]) is None
    assert (metrics["guard/kl"], metrics["guard/entropy"]) == (1.0, 1.0)
    assert "guard/spike" not in metrics


def test_sentences_name_value_limit_and_key_and_fade():
    watch = after(10, guards())
    watch.observe(11, {**USUAL, "objective/kl": 150.0}, VARIED)
    watch.skipped(12, ["policy loss is not finite in a minibatch of rollouts a, b"])
    newest, older = watch.sentences(13)
    assert newest == "step 12: policy loss is not finite in a minibatch of rollouts a, b"
    assert older == "step 11: KL to the reference is 150 nats per rollout, above 100 (guards.kl.limit)"
    assert watch.sentences(31) == (newest,)


def test_guards_go_on_after_a_checkpoint():
    watch = after(10, guards())
    watch.observe(11, {**USUAL, "objective/kl": 150.0}, VARIED)
    restored = guards()
    restored.restore(json.loads(json.dumps(watch.snapshot())))
    found, metrics = restored.observe(12, {**USUAL, "policy/entropy_avg": 0.01, "policy/grad_norm": 99.0}, VARIED)
    assert [finding.guard for finding in found] == ["spike", "entropy"]
    assert metrics["guard/kl"] == 1.0
    assert isinstance(found[0], Finding)


def test_self_check_may_be_a_flag():
    assert SelfCheckConfig.model_validate(True).enabled
    assert not SelfCheckConfig.model_validate(False).enabled
    assert SelfCheckConfig.model_validate({"enabled": True, "max_mismatch": 0.2}).max_mismatch == 0.2
