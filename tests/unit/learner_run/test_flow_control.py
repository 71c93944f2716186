"""Credit, lineage, staleness and prompt order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor.common.errors import InvalidInput
from preceptor.learner.pump.credit import Credit
from preceptor.learner.pump.lineage import PolicyLineage
from preceptor.learner.pump.prompts import FeedbackDraw, PromptOrder, PromptRecord
from preceptor.learner.pump.staleness import (
    DropOlderThan,
    WaitForAll,
    WeightDown,
    group_staleness,
    staleness_by_length,
)
from preceptor.learner.types import Experience

CREDIT = Credit(batch_size=8, group_size=2, max_staleness=1, checkpoint_every_steps=3)


def experience(*versions: int, tokens: int = 4, name: str = "r") -> Experience:
    """One rollout whose tokens were computed by these versions in turn."""
    size = tokens // len(versions)
    spans = tuple((version, place * size, (place + 1) * size) for place, version in enumerate(versions))
    return Experience(
        rollout_id=name,
        group_id="g",
        issue_index=0,
        prompt_token_ids=(1,),
        token_ids=tuple(range(tokens)),
        sampling_logprobs=(-1.0,) * tokens,
        version_spans=spans,
        score=0.0,
        finished=True,
        reward_model_version=0,
    )


# -- credit ---------------------------------------------------------------------------------------------------------


def test_credit_is_one_batch_more_than_the_staleness_allowed():
    assert CREDIT.groups(open_groups=0, unacknowledged_rollouts=0, groups_to_go=100) == 8
    assert CREDIT.groups(open_groups=7, unacknowledged_rollouts=14, groups_to_go=100) == 1
    assert CREDIT.groups(open_groups=9, unacknowledged_rollouts=0, groups_to_go=100) == 0


def test_credit_ends_with_the_run():
    assert CREDIT.groups(open_groups=0, unacknowledged_rollouts=0, groups_to_go=3) == 3
    assert CREDIT.groups(open_groups=0, unacknowledged_rollouts=0, groups_to_go=-2) == 0


def test_unacknowledged_rollouts_stop_the_pump_until_a_checkpoint():
    assert CREDIT.unacknowledged_limit == 40
    assert CREDIT.groups(open_groups=0, unacknowledged_rollouts=39, groups_to_go=100) == 0
    assert CREDIT.blocked_by_acknowledgement(open_groups=0, unacknowledged_rollouts=39)
    assert not CREDIT.blocked_by_acknowledgement(open_groups=8, unacknowledged_rollouts=39)
    assert not CREDIT.blocked_by_acknowledgement(open_groups=0, unacknowledged_rollouts=38)


# -- lineage --------------------------------------------------------------------------------------------------------


def test_lineage_counts_steps():
    lineage = PolicyLineage()
    lineage.advance(1)
    lineage.advance(2)
    assert (lineage.version, lineage.step, lineage.floor) == (2, 2, 0)
    assert [lineage.step_of(v) for v in (0, 1, 2, 3, -1)] == [0, 1, 2, None, None]


def test_republishing_after_a_restart_skips_the_rolled_back_versions():
    lineage = PolicyLineage()
    lineage.advance(1)  # the checkpoint; 2 and 3 were published by the process that died
    lineage.republish(4)
    assert (lineage.version, lineage.step, lineage.floor) == (4, 1, 4)
    assert [lineage.step_of(v) for v in (1, 2, 3, 4)] == [1, None, None, 1]
    lineage.advance(5)
    assert lineage.step_of(5) == 2


@pytest.mark.parametrize("move", [PolicyLineage.advance, PolicyLineage.republish])
def test_version_numbers_only_grow(move):
    lineage = PolicyLineage(version=3, step=1)
    with pytest.raises(ValueError, match="not above 3"):
        move(lineage, 3)


def test_lowest_version_for_a_step():
    lineage = PolicyLineage()
    for version in (1, 2):
        lineage.advance(version)
    lineage.republish(7)
    lineage.advance(8)
    assert [lineage.version_at(step) for step in (0, 1, 2, 3, 9)] == [0, 1, 2, 8, 8]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 4)), max_size=30))
def test_lineage_survives_a_checkpoint_and_agrees_with_a_plain_table(moves):
    lineage, table = PolicyLineage(), {0: 0}
    step = 0
    for is_step, gap in moves:
        version = lineage.version + gap
        step += is_step
        (lineage.advance if is_step else lineage.republish)(version)
        table[version] = step
    restored = PolicyLineage.restored(lineage.snapshot())
    assert restored.step == step
    assert {v: restored.step_of(v) for v in range(lineage.version + 2)} == {
        v: table.get(v) for v in range(lineage.version + 2)
    }


# -- staleness ------------------------------------------------------------------------------------------------------


def test_staleness_is_that_of_the_oldest_token():
    lineage = PolicyLineage()
    for version in (1, 2, 3):
        lineage.advance(version)
    assert group_staleness([experience(3), experience(1, 2)], lineage) == 2


def test_staleness_counts_steps_not_version_numbers_after_a_restart():
    lineage = PolicyLineage()
    lineage.advance(1)
    lineage.republish(9)
    assert group_staleness([experience(1)], lineage) == 0
    assert group_staleness([experience(5)], lineage) is None, "rolled back"
    assert group_staleness([experience(1, 5)], lineage) is None, "one rolled-back span is enough"


def test_waiting_gives_nothing_up():
    assert not WaitForAll(2).too_old(99)


def test_dropping_gives_old_groups_up():
    assert [DropOlderThan(2).too_old(age) for age in (2, 3)] == [False, True]


def test_weighting_down_keeps_everything_and_counts_it_for_less_with_age():
    policy = WeightDown(2, decay=0.5)
    assert not policy.too_old(99)
    assert [policy.weight(age) for age in (0, 2, 3, 5)] == [1.0, 1.0, 0.5, 0.125]
    assert [WeightDown(0, decay=0.0).weight(age) for age in (0, 1)] == [1.0, 0.0]


@pytest.mark.parametrize("policy", [WaitForAll(0), DropOlderThan(0)])
def test_the_other_policies_weigh_everything_alike(policy):
    assert policy.weight(7) == 1.0


def test_staleness_by_length_shows_when_long_rollouts_are_older():
    lineage = PolicyLineage()
    lineage.advance(1)
    rollouts = [experience(1, tokens=2, name="short"), experience(0, tokens=8, name="long")]
    metrics = staleness_by_length(rollouts, lineage)
    assert metrics == {"staleness/mean": 0.5, "staleness/max": 1.0, "staleness/longer_half_minus_shorter": 1.0}


# -- prompts --------------------------------------------------------------------------------------------------------


def prompts(count: int) -> list[PromptRecord]:
    return [PromptRecord(str(i), f"prompt {i}") for i in range(count)]


@given(st.integers(1, 20), st.integers(0, 2**31 - 1))
def test_every_prompt_comes_once_per_epoch_in_an_order_of_the_seed(count, seed):
    order = PromptOrder(prompts(count), seed)
    epochs = [[order.prompt(e * count + i).prompt_id for i in range(count)] for e in range(3)]
    assert all(sorted(epoch) == sorted(str(i) for i in range(count)) for epoch in epochs)
    again = PromptOrder(prompts(count), seed)
    assert [again.prompt(i).prompt_id for i in range(3 * count)] == [prompt for epoch in epochs for prompt in epoch]


def test_epochs_and_seeds_differ_in_order():
    def ids(seed: int, epoch: int) -> list[str]:
        order = PromptOrder(prompts(50), seed)
        return [order.prompt(epoch * 50 + i).prompt_id for i in range(50)]

    assert ids(0, 0) != ids(0, 1)
    assert ids(0, 0) != ids(1, 0)


def test_no_prompts_is_an_error():
    with pytest.raises(InvalidInput, match="no prompts"):
        PromptOrder([], 0)


def test_feedback_shares_are_drawn_alike_for_every_attempt():
    draw = FeedbackDraw("project", share=0.3, control_share=0.1, seed=5)
    drawn = [draw.draw(i) for i in range(4000)]
    assert drawn == [draw.draw(i) for i in range(4000)]
    assert abs(sum(control for _, control in drawn) / 4000 - 0.1) < 0.02
    assert abs(sum(project == "project" for project, _ in drawn) / 4000 - 0.4) < 0.03
    assert FeedbackDraw("", 0.0, 0.0, 5).draw(1) == ("", False)
