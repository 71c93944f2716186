"""An rl run whose rollouts vLLM writes: engine and learner agree, weights go live in time."""

import pytest

from tests.integration.learner.world import Run, assert_closed, running_world
from tests.support.models import build_policy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_synchronous_run_on_vllm_is_on_policy_from_the_first_minibatch(tmp_path):
    # vLLM on CPU takes heads of 32 and more
    policy = build_policy(tmp_path / "policy", hidden_size=128, layers=2, max_position_embeddings=128)
    with running_world(tmp_path, ["real"], vllm=True) as world:
        run = Run(world, "real", policy)
        config = run.config(max_staleness=0, total_steps=3, batch_size=16, group_size=4, attempt_deadline_s=300)
        with run.learner(config) as learner:
            summary = run.finish(learner, timeout_s=400)
    assert_closed(summary)
    assert summary["attempts"]["trained"] == summary["attempts"]["sent"] == 12
    assert summary["staleness"]["max"] == 0
    rows = [row["metrics"] for row in run.metrics()]
    assert max(row["mismatch/ratio_max_dev_first_minibatch"] for row in rows) < 1e-3
    assert max(row["mismatch/logprob_abs_mean"] for row in rows) < 1e-3
    assert min(row["mismatch/current_token_share"] for row in rows) == 1.0
