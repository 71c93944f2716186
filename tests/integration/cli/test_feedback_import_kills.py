"""An import that is cut off, by SIGKILL of either side or by a limit, is run again and adds what is missing."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.cli.feedback_import import BATCH
from preceptor.clients.feedback import FeedbackClient
from preceptor.common.waiting import wait_until
from tests.integration.cli.feedback_cli import Cli, pair
from tests.integration.feedback.feedback_process import feedback_process

REPOSITORY = Path(__file__).parents[3]


def project_has(cli: Cli, project: str, rankings: int) -> bool:
    known = cli.client.list_projects(pb.ListProjectsRequest()).projects
    return any(p.project_id == project for p in known) and cli.rankings(project) >= rankings


@pytest.fixture
def process(tmp_path):
    """A service of the test's own, not started."""
    return feedback_process(tmp_path, f"sqlite:///{tmp_path / 'votes.sqlite'}")


@pytest.fixture
def cli(process, capsys, tmp_path):
    """The command, and the service running."""
    address = f"127.0.0.1:{process.env['PRECEPTOR_FEEDBACK_PORT']}"
    with process, FeedbackClient(address) as client:
        process.wait_ready()
        yield Cli(client, address, capsys, tmp_path)


def test_an_import_killed_on_the_way_is_run_again(cli):
    rows = 6 * BATCH
    file = cli.file([pair(i) for i in range(rows)])
    arguments = ["feedback", "import", "killed", str(file), "--format", "trl-preference", "--address", cli.address]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "services")}
    process = subprocess.Popen([sys.executable, "-m", "preceptor.cli", *arguments], env=environment)
    try:
        wait_until(lambda: project_has(cli, "killed", BATCH + 1), 60, "the import to be under way")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    there = cli.rankings("killed")
    assert BATCH < there < rows
    report = cli.json("import", "killed", file, "--format", "trl-preference")
    assert report["rankings_added"] + report["rankings_already_there"] == rows == cli.rankings("killed")
    assert report["rankings_already_there"] - there in (0, 1)  # the vote on its way may have been stored since
    assert cli.client.stats(pb.GetStatsRequest(project_id="killed")).comparisons_open == 0


def test_an_import_outlasts_a_restart_of_the_service(cli, process):
    rows = 4 * BATCH
    file = cli.file([pair(i) for i in range(rows)])
    with ThreadPoolExecutor(1) as pool:
        importing = pool.submit(cli.json, "import", "restart", file, "--format", "trl-preference")
        wait_until(lambda: project_has(cli, "restart", BATCH), 60, "the import to be under way")
        process.kill()
        process.start()
        report = importing.result(120)
    assert (report["rows"], report["complete"], report["bad_rows"]) == (rows, True, [])
    assert report["rankings_added"] + report["rankings_already_there"] == rows == cli.rankings("restart")


@pytest.fixture
def small_backlog(process):
    """Fewer open comparisons than two batches."""
    process.env["PRECEPTOR_FEEDBACK_MAX_OPEN_COMPARISONS"] = str(BATCH + 10)


@pytest.mark.usefixtures("small_backlog")
def test_a_full_backlog_ends_the_import_and_a_later_one_goes_on(cli):
    file = cli.file([pair(i) for i in range(2 * BATCH)])
    arguments = ("import", "full", file, "--format", "trl-preference", "--overlap", "2")
    code, out, err = cli(*arguments, "--json")
    assert code == 1
    assert f"{BATCH + 10} open comparisons already" in err
    assert "run the same command again to go on" in err
    assert (json.loads(out)["rankings_added"], json.loads(out)["complete"]) == (BATCH, False)
    cli.json(*arguments, "--rater", "second")  # completes what waits
    report = cli.json(*arguments)
    assert (report["rankings_added"], report["rankings_already_there"]) == (BATCH, BATCH)
