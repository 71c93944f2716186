"""`preceptor feedback` as tests call it."""

import json
from pathlib import Path
from typing import Any

import pytest

from preceptor.api.feedback.v1 import feedback_pb2 as fb
from preceptor.api.feedback.v1 import feedback_service_pb2 as pb
from preceptor.cli.main import run
from preceptor.clients.feedback import FeedbackClient


class Cli:
    """The command in this process, and the service that it speaks to."""

    def __init__(self, client: FeedbackClient, address: str, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self.client = client
        self.address = address
        self.folder = folder
        self._capsys = capsys

    def __call__(self, *args: str | Path) -> tuple[int, str, str]:
        """Returns the exit code, standard output and standard error."""
        self._capsys.readouterr()
        code = run(["feedback", *map(str, args), "--address", self.address])
        return code, *self._capsys.readouterr()

    def json(self, *args: str | Path, code: int = 0) -> Any:
        ended, out, err = self(*args, "--json")
        assert ended == code, err
        return json.loads(out)

    def file(self, rows: list[Any], name: str = "rows.jsonl") -> Path:
        path = self.folder / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path

    def rankings(self, project: str) -> int:
        return self.client.stats(pb.GetStatsRequest(project_id=project)).rankings

    def exported(self, project: str) -> list[fb.RankedComparison]:
        return [answer.item for answer in self.client.export_rankings(pb.ExportRankingsRequest(project_id=project))]


def pair(i: int) -> dict[str, str]:
    return {"prompt": f"Question {i}?", "chosen": f"good {i}", "rejected": f"bad {i}"}
