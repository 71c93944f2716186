"""Policy versions and checkpoints in an artifact store, and the publisher's thread."""

import json
import threading
from concurrent.futures import Future

import numpy as np
import pytest
from safetensors.numpy import save_file

from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import AlreadyExists, DataLoss, DeadlineExceeded, NotFound
from preceptor.learner.adapters.policy_store import PolicyStore
from preceptor.learner.adapters.publisher import Publisher
from preceptor.learner.adapters.run_checkpoints import RunCheckpoints
from preceptor.learner.distributed.snapshots import file_digest
from preceptor.learner.run_configs import CheckpointConfig
from preceptor.learner.run_configs.rl import PublishConfig


@pytest.fixture
def store(tmp_path):
    return ArtifactStore((tmp_path / "artifacts").as_uri())


@pytest.fixture
def staged(tmp_path):
    """Makes exported folders: staged(value) holds one tensor of that value."""
    made = iter(range(1000))

    def make(value: float):
        folder = tmp_path / f"staged-{next(made)}"
        folder.mkdir()
        save_file({"w": np.full((2, 3), value, np.float32)}, folder / "model.safetensors")
        (folder / "config.json").write_text('{"model_type": "llama"}')
        return folder

    return make


# -- policy versions ------------------------------------------------------------------------------------------------


def test_versions_start_at_zero_and_are_found_again(store, staged):
    policies = PolicyStore(store, "r")
    assert (policies.newest, policies.reserved) == (-1, -1)
    assert policies.reserve() == 0
    policies.publish(0, staged(1.0), step=0)
    again = PolicyStore(store, "r")
    assert (again.newest, again.reserved, again.versions()) == (0, 0, [0])
    assert again.manifest(0).policy_version == 0
    assert again.manifest(0).sources[0].uri == store.path("runs/r/policy/00000000")


def test_reserved_number_is_not_given_out_again_after_a_crash(store):
    policies = PolicyStore(store, "r")
    policies.reserve()
    policies.reserve()
    assert PolicyStore(store, "r").reserve() == 2


def test_published_version_that_somebody_else_made_counts_as_reserved(store, staged):
    PolicyStore(store, "r").publish(0, staged(1.0), step=0)
    assert PolicyStore(store, "r").reserve() == 1


def test_version_never_gets_a_second_content(store, staged):
    policies = PolicyStore(store, "r")
    policies.publish(0, staged(1.0), step=0)
    with pytest.raises(AlreadyExists):
        policies.publish(0, staged(2.0), step=0)
    assert policies.same_content(0, staged(1.0))
    assert not policies.same_content(0, staged(2.0))
    assert not policies.same_content(1, staged(1.0))


def test_garbage_is_what_nothing_names(store, staged):
    policies = PolicyStore(store, "r")
    for version in range(8):
        policies.publish(version, staged(version), step=version)
    assert policies.collect_garbage(keep_newest=2, keep_every=3, pinned={1}) == [2, 4, 5]
    assert policies.versions() == [0, 1, 3, 6, 7]
    with pytest.raises(NotFound, match="policy version 2 of run r is not in the store"):
        policies.manifest(2)


# -- publisher ------------------------------------------------------------------------------------------------------


def publisher(policies, announced, *, hold: threading.Event | None = None, timeout_s: float = 10.0) -> Publisher:
    def announce(manifest):
        if hold is not None:
            hold.wait(10)
        announced.append(manifest.policy_version)

    config = PublishConfig(keep_versions=2, timeout_s=timeout_s)
    return Publisher(policies, config, announce=announce, published=lambda version, seconds: None)


def test_publishing_goes_on_in_the_background_in_order(store, staged):
    policies, announced, hold = PolicyStore(store, "r"), [], threading.Event()
    publishing = publisher(policies, announced, hold=hold)
    publishing.submit(0, staged(0.0), 0)
    assert announced == []
    hold.set()
    publishing.submit(1, staged(1.0), 1)
    publishing.flush()
    publishing.close()
    assert announced == [0, 1]
    assert policies.newest == 1


def test_announced_versions_are_durable(store, staged):
    policies, seen = PolicyStore(store, "r"), []
    publishing = Publisher(
        policies,
        PublishConfig(),
        announce=lambda manifest: seen.append(PolicyStore(store, "r").newest == manifest.policy_version),
        published=lambda version, seconds: None,
    )
    publishing.submit(0, staged(0.0), 0)
    publishing.flush()
    publishing.close()
    assert seen == [True]


def test_failed_publication_is_raised_by_the_next_call(store, staged):
    policies = PolicyStore(store, "r")
    policies.publish(0, staged(0.0), step=0)
    publishing = publisher(policies, [])
    publishing.submit(0, staged(1.0), 0)
    with pytest.raises(AlreadyExists):
        publishing.flush()
    publishing.close()


def test_slow_publication_is_given_up_with_the_setting_named(store, staged):
    hold = threading.Event()
    publishing = publisher(PolicyStore(store, "r"), [], hold=hold, timeout_s=0.05)
    publishing.submit(0, staged(0.0), 0)
    with pytest.raises(DeadlineExceeded, match=r"publish\.timeout_s"):
        publishing.flush()
    hold.set()
    publishing.close()


def test_publisher_keeps_pinned_versions(store, staged):
    policies = PolicyStore(store, "r")
    publishing = publisher(policies, [])
    publishing.pin({1})
    for version in range(5):
        publishing.submit(version, staged(version), version)
    publishing.flush()
    publishing.close()
    assert policies.versions() == [1, 3, 4]


# -- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoints(store, tmp_path):
    config = CheckpointConfig(keep=2, best_metric="eval/reward")
    made = RunCheckpoints(store, "r", config, scratch=tmp_path / "scratch")
    yield made
    made.close()


def begin(checkpoints: RunCheckpoints, step: int, text: str = "weights", written=None, value=None):
    """Begins a checkpoint; written: a future that is done once the trainer's files are."""

    def write(folder):
        path = folder / "trainer.pt"
        path.write_text(f"{text} {step}")
        digests = {path.name: file_digest(path)}
        if written is not None:
            return written(digests)
        done: Future[dict[str, str]] = Future()
        done.set_result(digests)
        return done

    metrics = {} if value is None else {"eval/reward": value}
    return checkpoints.begin(step, write, {"step": step}, step, metrics)


def save(checkpoints: RunCheckpoints, step: int, text: str = "weights", value=None) -> str:
    return begin(checkpoints, step, text, value=value).wait()


def test_a_checkpoint_does_not_count_before_all_of_it_is_written(checkpoints):
    save(checkpoints, 1)
    hold: Future[dict[str, str]] = Future()
    found = {}
    pending = begin(checkpoints, 2, written=lambda digests: found.update(digests) or hold)
    assert not pending.done
    assert checkpoints.load().state == {"step": 1}
    hold.set_result(found)
    pending.wait()
    assert checkpoints.load().state == {"step": 2}


def test_the_best_checkpoint_stays_beside_the_newest(checkpoints, tmp_path):
    for step, value in enumerate((0.2, 0.9, float("nan"), 0.5, None), start=1):
        save(checkpoints, step, value=value)
    folder = tmp_path / "artifacts/runs/r/checkpoints"
    names = ["LATEST.json", *(f"step-0000000{step}" for step in (2, 4, 5))]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert checkpoints.policy_versions() == {2, 4, 5}
    save(checkpoints, 6, value=1.5)
    assert checkpoints.policy_versions() == {5, 6}


def test_newest_checkpoint_is_loaded(checkpoints):
    assert checkpoints.load() is None
    save(checkpoints, 1)
    save(checkpoints, 2)
    loaded = checkpoints.load()
    assert loaded.state == {"step": 2}
    assert (loaded.trainer / "trainer.pt").read_text() == "weights 2"
    assert checkpoints.policy_versions() == {1, 2}


def test_oldest_checkpoints_go(checkpoints, tmp_path):
    for step in (1, 2, 3):
        save(checkpoints, step)
    folder = tmp_path / "artifacts/runs/r/checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["LATEST.json", "step-00000002", "step-00000003"]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_second_checkpoint_of_a_step_replaces_nothing(checkpoints):
    first, second = save(checkpoints, 1), save(checkpoints, 1, "later")
    assert first != second
    assert (checkpoints.load().trainer / "trainer.pt").read_text() == "later 1"


@pytest.mark.parametrize("file", ["trainer/trainer.pt", "run.json", "checksums.json"])
def test_damage_falls_back_to_the_checkpoint_before(checkpoints, tmp_path, file):
    save(checkpoints, 1)
    save(checkpoints, 2)
    path = tmp_path / "artifacts/runs/r/checkpoints/step-00000002" / file
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert checkpoints.load().state == {"step": 1}


def test_missing_folder_falls_back_too(checkpoints, store):
    save(checkpoints, 1)
    save(checkpoints, 2)
    store.delete("runs/r/checkpoints/step-00000002")
    assert checkpoints.load().state == {"step": 1}


def test_nothing_but_damage_is_data_loss(checkpoints, tmp_path):
    save(checkpoints, 1)
    (tmp_path / "artifacts/runs/r/checkpoints/step-00000001/trainer/trainer.pt").unlink()
    with pytest.raises(DataLoss, match="every checkpoint of the run is damaged"):
        checkpoints.load()


def test_failed_save_leaves_the_one_before(checkpoints, tmp_path):
    save(checkpoints, 1)

    def fails(folder):
        (folder / "half").write_text("x")
        raise OSError("disk full")

    def fails_later(digests):
        failed: Future[dict[str, str]] = Future()
        failed.set_exception(OSError("disk full"))
        return failed

    with pytest.raises(OSError, match="disk full"):
        checkpoints.begin(2, fails, {}, 2, {})
    with pytest.raises(OSError, match="disk full"):
        begin(checkpoints, 2, written=fails_later).wait()
    assert checkpoints.load().state == {"step": 1}
    assert list((tmp_path / "scratch").iterdir()) == []
    assert json.loads((tmp_path / "artifacts/runs/r/checkpoints/LATEST.json").read_text())["step"] == 1
