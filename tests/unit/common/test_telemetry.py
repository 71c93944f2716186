"""Logs carry their fields and trace; metrics are made once; busy time counts overlaps once."""

import json
import logging
import threading
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from preceptor.common import telemetry
from preceptor.common.telemetry import BusyClock, counter, gauge, get_logger, log_context, setup_logging, start_trace
from preceptor.common.waiting import wait_until


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """Puts pytest's handlers back."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_json_lines_hold_event_fields_context_and_trace(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("reward", "json", "INFO")
    trace = start_trace()
    with log_context(run_id="r1"):
        get_logger("x").info("model loaded", reward_model_version=3)
    line = json.loads(capsys.readouterr().err)
    assert line["event"] == "model loaded"
    assert (line["service"], line["level"], line["logger"]) == ("reward", "info", "x")
    assert (line["reward_model_version"], line["run_id"], line["trace_id"]) == (3, "r1", trace)
    assert line["time"].endswith("+00:00")


def test_a_field_cannot_overwrite_the_lines_own_keys(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("reward", "json")
    get_logger("x").info("loaded", level="mine", time="never")
    assert json.loads(capsys.readouterr().err)["level"] == "info"


def test_an_exception_brings_its_traceback_on_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("reward", "json")
    try:
        raise ValueError("inner")
    except ValueError:
        get_logger("x").exception("failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: inner" in json.loads(line)["exception"]


def test_text_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("reward", "text")
    get_logger("x").warning("slow", seconds=2.5)
    assert capsys.readouterr().err.strip().endswith("WARNING reward: slow seconds=2.5")


def test_a_percent_sign_in_an_event_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("reward", "text")
    get_logger("x").info("100% of %s", n=1)
    assert "100% of %s n=1" in capsys.readouterr().err


def test_auto_is_json_when_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("reward", "auto")
    logging.getLogger("other.library").info("plain %d", 1)
    assert json.loads(capsys.readouterr().err)["event"] == "plain 1"


def test_lines_below_the_level_are_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("reward", "json", "WARNING")
    get_logger("x").info("quiet")
    assert capsys.readouterr().err == ""


def test_context_ends_with_its_block_and_nests() -> None:
    with log_context(a=1):
        with log_context(b=2):
            assert telemetry._log_fields.get() == {"a": 1, "b": 2}
        assert telemetry._log_fields.get() == {"a": 1}
    assert telemetry._log_fields.get() is None


@pytest.mark.parametrize("header", [None, "", "rubbish", "00-short-x-01", "00-" + "G" * 32 + "-" + "0" * 16 + "-01"])
def test_an_unreadable_traceparent_starts_a_new_trace(header: str | None) -> None:
    assert len(start_trace(header)) == 32


def test_a_trace_goes_on_through_its_header() -> None:
    trace = start_trace()
    header = telemetry.traceparent()
    start_trace()
    assert start_trace(header) == trace


def test_a_metric_is_made_once_and_keeps_its_kind() -> None:
    first = counter("preceptor_test_things_total", "Things.", ("kind",))
    assert counter("preceptor_test_things_total", "Things.", ("kind",)) is first
    with pytest.raises(ValueError, match="is a Counter, not a Gauge"):
        gauge("preceptor_test_things_total", "Things.")


def test_busy_time_counts_overlapping_blocks_once() -> None:
    clock = BusyClock("test-one")
    both_open = threading.Barrier(2)

    def work() -> None:
        with clock:
            both_open.wait(5)
            threading.Event().wait(0.2)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.2 <= clock.total_s < 0.39


def test_busy_time_of_an_open_block_is_exported() -> None:
    clock = BusyClock("test-two")

    def exported() -> float:
        return REGISTRY.get_sample_value("preceptor_test_two_busy_seconds_total") or 0.0

    with clock:
        wait_until(lambda: exported() > 0.05, 5, "the clock to run")
    stopped = clock.total_s
    assert exported() == stopped
