"""The reward server as a process of its own, over gRPC."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from preceptor.api.common.v1 import text_pb2
from preceptor.api.reward.v1 import reward_service_pb2 as pb
from preceptor.clients.reward import RewardClient
from preceptor.common.errors import FailedPrecondition, InvalidInput, NotFound, Overloaded, PreceptorError
from preceptor.common.reward_text import encode_reward_input
from tests.support.models import build_reward_model
from tests.support.ports import free_port
from tests.support.processes import ServiceProcess
from tests.support.waiting import wait_until

FUNCTIONS = """
import time

def length(completions):
    return [float(len(text)) for text in completions]

def fussy(completions):
    if any("bad" in text for text in completions):
        raise ValueError("I do not score this")
    return [float("nan") if "nan" in text else 1.0 for text in completions]

def slow(completions):
    time.sleep(1.0)
    return [0.5] * len(completions)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact store with two reward model versions and a file of functions."""
    root = tmp_path_factory.mktemp("artifacts")
    for version, mean in ((1, 0.0), (2, 10.0)):
        folder = build_reward_model(root / "reward-models" / f"{version:06d}", seed=version)
        card = {"reward_model_version": version, "score_mean": mean, "score_sd": 0.5}
        (folder / "card.json").write_text(json.dumps(card))
    (root / "functions.py").write_text(FUNCTIONS)
    return root


class RewardProcess(ServiceProcess):
    """`python -m preceptor.reward` with a client."""

    def __init__(self, store: Path, folder: Path, **settings: object) -> None:
        port, metrics_port = free_port(), free_port()
        env = {"PORT": port, "METRICS_PORT": metrics_port, "ARTIFACTS_URL": store.as_uri(), "THREADS": 1} | settings
        prefixed = {f"PRECEPTOR_REWARD_{name.upper()}": str(value) for name, value in env.items()}
        super().__init__("preceptor.reward", prefixed, folder, metrics_port=metrics_port)
        self.client = RewardClient(f"127.0.0.1:{port}")


@pytest.fixture(scope="module")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RewardProcess]:
    """One for all tests that load what they need; the others start their own."""
    forget(store)
    with RewardProcess(store, tmp_path_factory.mktemp("server")) as process:
        yield process.wait_ready()  # type: ignore[misc]


def forget(store: Path) -> None:
    """Removes what an earlier server remembered."""
    (store / "reward" / "serving.json").unlink(missing_ok=True)


def item(completion: str, prompt: str = "the quick ", *, truncated: bool = False) -> pb.ScoreItem:
    return pb.ScoreItem(prompt=text_pb2.Prompt(text=prompt), completion=completion, truncated=truncated)


def load(server: RewardProcess, version: int, *, name: str = "rm", make_current: bool = True) -> pb.RewardModelInfo:
    request = pb.LoadModelRequest(
        name=name, kind=pb.REWARD_KIND_MODEL, uri=f"reward-models/{version:06d}", make_current=make_current
    )
    return server.client.load_model(request).model


def load_function(server: RewardProcess, store: Path, name: str) -> None:
    uri = f"{store}/functions.py:{name}"
    request = pb.LoadModelRequest(name=name, kind=pb.REWARD_KIND_FUNCTION, uri=uri, make_current=True)
    server.client.load_model(request)


def score(server: RewardProcess, *items: pb.ScoreItem, **fields: object) -> pb.ScoreResponse:
    return server.client.score(pb.ScoreRequest(items=items, **fields), timeout_s=20)  # type: ignore[arg-type]


def expected_scores(folder: Path, items: list[pb.ScoreItem], mean: float, sd: float) -> list[float]:
    """By transformers alone, one item at a time."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    scores = []
    for one in items:
        ids = encode_reward_input(
            tokenizer, prompt=one.prompt.text, completion=one.completion, finished=not one.truncated
        )
        with torch.no_grad():
            scores.append((float(model(torch.tensor([ids])).logits[0, 0]) - mean) / sd)
    return scores


def test_without_a_model_it_is_ready_and_says_what_to_do(store: Path, tmp_path: Path) -> None:
    forget(store)
    with RewardProcess(store, tmp_path) as server:
        server.wait_ready()
        with pytest.raises(FailedPrecondition, match="LoadModel"):
            score(server, item("fox"))


def test_scores_are_the_models_own_normalised_by_its_card(server: RewardProcess, store: Path) -> None:
    info = load(server, 2)
    assert (info.reward_model_version, info.current) == (2, True)
    items = [item("brown fox " * (i + 1), truncated=i % 3 == 0) for i in range(20)]
    response = score(server, *items)
    expected = expected_scores(store / "reward-models" / "000002", items, 10.0, 0.5)
    assert [result.score for result in response.results] == pytest.approx(expected, abs=1e-4)
    assert (response.model, response.reward_model_version) == ("rm", 2)


def test_concurrent_requests_share_forwards_and_keep_their_own_scores(server: RewardProcess, store: Path) -> None:
    load(server, 1)
    requests = [[item(f"fox {i} " * (1 + (i + j) % 7)) for j in range(4)] for i in range(30)]
    with ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(lambda items: score(server, *items), requests))
    flat = [one for items in requests for one in items]
    got = [result.score for response in responses for result in response.results]
    assert got == pytest.approx(expected_scores(store / "reward-models" / "000001", flat, 0.0, 0.5), abs=1e-4)


def test_a_model_is_switched_while_requests_run(server: RewardProcess, store: Path) -> None:
    load(server, 1)
    one = item("brown fox")
    truth = {
        version: expected_scores(store / "reward-models" / f"{version:06d}", [one], mean, 0.5)[0]
        for version, mean in ((1, 0.0), (2, 10.0))
    }
    answers: list[pb.ScoreResponse] = []
    errors: list[PreceptorError] = []
    stop = threading.Event()

    def hammer() -> None:
        while not stop.is_set():
            try:
                answers.append(score(server, one, one))
            except PreceptorError as error:
                errors.append(error)

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for version in (2, 1, 2):
        load(server, version)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    for answer in answers:
        scores = [result.score for result in answer.results]
        assert scores == pytest.approx([truth[answer.reward_model_version]] * 2, abs=1e-4)
    assert score(server, one).reward_model_version == 2


@pytest.mark.slow
def test_a_killed_server_comes_back_with_what_it_served(store: Path, tmp_path: Path) -> None:
    forget(store)
    with RewardProcess(store, tmp_path) as server:
        server.wait_ready()
        load(server, 1, name="first", make_current=False)
        load(server, 2, name="second")
        load_function(server, store, "length")
        before = server.client.list_models(pb.ListModelsRequest()).models
        server.kill()
        server.start().wait_ready()
        after = server.client.list_models(pb.ListModelsRequest()).models
        assert [(m.name, m.reward_model_version, m.current) for m in after] == [
            ("first", 1, False),
            ("length", 0, True),
            ("second", 2, False),
        ]
        assert [m.uri for m in after] == [m.uri for m in before]
        assert [r.score for r in score(server, item("four")).results] == [4.0]


def test_models_are_listed_in_pages_and_unloaded(server: RewardProcess) -> None:
    for name in ("page-a", "page-b", "page-c"):
        load(server, 1, name=name, make_current=False)
    first = server.client.list_models(pb.ListModelsRequest(page_size=2, page_token="p"))
    rest = server.client.list_models(pb.ListModelsRequest(page_size=2, page_token=first.next_page_token))
    assert [m.name for m in first.models] == ["page-a", "page-b"]
    assert rest.models[0].name == "page-c"
    for name in ("page-a", "page-b", "page-c"):
        server.client.unload_model(pb.UnloadModelRequest(name=name))
    with pytest.raises(NotFound, match='"page-a" is loaded'):
        score(server, item("x"), model="page-a")


def test_one_bad_item_leaves_the_others_their_scores(server: RewardProcess, store: Path) -> None:
    load_function(server, store, "fussy")
    results = score(server, item("fine"), item("bad"), item("nan")).results
    assert [result.error.reason for result in results] == ["", "FUNCTION_RAISED", "NAN_SCORE"]
    assert results[0].score == 1.0
    assert results[1].error.message == "fussy raised ValueError: I do not score this"
    load(server, 1)
    results = score(server, item("fine"), item("fox " * 600)).results
    assert [result.error.reason for result in results] == ["", "PROMPT_TOO_LONG"]


@pytest.mark.parametrize(
    ("request_", "error", "text"),
    [
        (pb.LoadModelRequest(name="x", kind=1), InvalidInput, "uri is missing"),
        (pb.LoadModelRequest(name="x", uri="y"), InvalidInput, "REWARD_KIND_MODEL, REWARD_KIND_FUNCTION"),
        (pb.LoadModelRequest(name="x", kind=1, uri="reward-models/000009"), NotFound, "no artifact at"),
        (
            pb.LoadModelRequest(name="x", kind=1, uri="reward-models/000001", reward_model_version=7),
            InvalidInput,
            "is reward_model_version 1 by its card, not 7",
        ),
        (pb.LoadModelRequest(name="x", kind=1, uri="../etc"), InvalidInput, r'without "\.\."'),
        (pb.LoadModelRequest(name="x", kind=2, uri="nowhere.at.all:f"), NotFound, "no Python module"),
    ],
)
def test_what_cannot_be_loaded_is_said_and_changes_nothing(
    server: RewardProcess, request_: pb.LoadModelRequest, error: type[PreceptorError], text: str
) -> None:
    before = server.client.list_models(pb.ListModelsRequest())
    with pytest.raises(error, match=text):
        server.client.load_model(request_)
    assert server.client.list_models(pb.ListModelsRequest()) == before


def test_token_ids_are_refused_by_name(server: RewardProcess) -> None:
    load(server, 1)
    bad = pb.ScoreItem(prompt=text_pb2.Prompt(token_ids=text_pb2.TokenIds(ids=[1, 2])), completion="x")
    with pytest.raises(InvalidInput, match="holds token ids") as error:
        score(server, item("fine"), bad)
    assert error.value.field == "items[1].prompt"


def test_a_full_queue_is_refused_with_a_hint(store: Path, tmp_path: Path) -> None:
    forget(store)
    models = f"slow={store}/functions.py:slow"
    with RewardProcess(store, tmp_path, models=models, max_queue_items=4, max_request_items=4) as server:
        server.wait_ready()
        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(lambda _: _outcome(server, [item("x")] * 2), range(8)))
    refused = [outcome for outcome in outcomes if isinstance(outcome, Overloaded)]
    assert len(refused) == 6
    assert all(error.retry_after_s for error in refused)
    assert sum(isinstance(outcome, pb.ScoreResponse) for outcome in outcomes) == 2


def test_sigterm_lets_a_request_finish(store: Path, tmp_path: Path) -> None:
    forget(store)
    with RewardProcess(store, tmp_path, models=f"slow={store}/functions.py:slow") as server:
        server.wait_ready()
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(score, server, item("x"))
            in_flight = (
                'preceptor_grpc_server_requests_in_flight{method="/preceptor.api.reward.v1.RewardService/Score"} 1'
            )
            wait_until(lambda: in_flight in server.http("/metrics")[1], 10, "the request to arrive")
            assert server.terminate() == 0
            assert [result.score for result in pending.result().results] == [0.5]


@pytest.mark.parametrize(
    ("settings", "code", "text"),
    [
        ({"models": "rm=reward-models/000009"}, 1, "no artifact at"),
        ({"models": "nonsense"}, 2, "PRECEPTOR_REWARD_MODELS"),
        ({"models": "f=json:dumps", "current": "g"}, 2, "PRECEPTOR_REWARD_CURRENT='g' is wrong"),
        ({"max_request_items": 9, "max_queue_items": 8}, 2, "PRECEPTOR_REWARD_MAX_REQUEST_ITEMS='9' is wrong"),
        ({"max_batch_items": 0}, 2, "PRECEPTOR_REWARD_MAX_BATCH_ITEMS"),
    ],
)
def test_wrong_settings_end_it_with_one_line(
    store: Path, tmp_path: Path, settings: dict[str, object], code: int, text: str
) -> None:
    forget(store)
    with RewardProcess(store, tmp_path, **settings) as server:
        assert server.wait() == code
        assert text in server.log()
        assert "Traceback" not in server.log()


def _outcome(server: RewardProcess, items: list[pb.ScoreItem]) -> pb.ScoreResponse | PreceptorError:
    try:
        return score(server, *items)
    except PreceptorError as error:
        return error
