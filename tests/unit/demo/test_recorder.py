"""Busy seconds from metrics pages, through restarts."""

import http.server
import os
import threading
from collections.abc import Iterator

import pytest

from preceptor.demo.recorder import BusyRecorder, BusySeries, parse_busy

PAGE = """\
# HELP preceptor_reward_busy_seconds_total Seconds at work.
# TYPE preceptor_reward_busy_seconds_total counter
preceptor_reward_busy_seconds_total 12.5
preceptor_reward_scored_items_total{model="m",outcome="OK"} 40.0
process_cpu_seconds_total 99.0
"""


def test_only_busy_counters_are_read() -> None:
    assert parse_busy(PAGE) == 12.5
    assert parse_busy(PAGE + 'preceptor_other_busy_seconds_total{part="x"} 1e-1\n') == pytest.approx(12.6)
    assert parse_busy("process_cpu_seconds_total 99.0\n") is None


def test_the_fraction_is_busy_time_over_time() -> None:
    series = BusySeries()
    for time_s, raw in ((0.0, 5.0), (10.0, 7.0), (20.0, 15.0)):
        series.add(time_s, raw)
    assert series.fraction() == pytest.approx(0.5)
    assert series.fractions_over_time(10.0) == [(0.0, 10.0, pytest.approx(0.2)), (10.0, 20.0, pytest.approx(0.8))]


def test_a_restarted_process_goes_on_from_what_it_had() -> None:
    series = BusySeries()
    for time_s, raw in ((0.0, 0.0), (10.0, 8.0), (20.0, 1.0)):
        series.add(time_s, raw)
    assert series.busy_s == [0.0, 8.0, 9.0]


def test_one_reading_is_no_fraction() -> None:
    series = BusySeries()
    assert series.fraction() == 0.0
    series.add(1.0, 1.0)
    assert series.fraction() == 0.0


@pytest.fixture
def page_url() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PAGE.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
    server.shutdown()
    server.server_close()


def test_a_process_that_does_not_answer_has_no_reading(page_url: str) -> None:
    recorder = BusyRecorder({"here": page_url, "gone": "http://127.0.0.1:9/metrics"}, root_pid=os.getppid())
    recorder.read_once()
    assert recorder.series["here"].busy_s == [12.5]
    assert "gone" not in recorder.series
    assert recorder.peak_memory_bytes > 0


def test_the_recorder_reads_at_start_and_end(page_url: str) -> None:
    recorder = BusyRecorder({"here": page_url}, interval_s=60.0)
    recorder.start()
    recorder.stop()
    assert len(recorder.series["here"].busy_s) >= 2
