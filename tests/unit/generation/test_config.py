from pathlib import Path

import pytest
from pydantic import ValidationError

from preceptor.generation.config import GenerationSettings


def settings(**given: object) -> GenerationSettings:
    return GenerationSettings(artifacts_url="/artifacts", **given)  # type: ignore[arg-type]


def test_a_run_or_a_model_folder_is_enough(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert settings(run_id="run-a").model_dir is None
    assert settings(model_dir=tmp_path).run_id == ""


@pytest.mark.parametrize("given", [{}, {"run_id": "a", "model_dir": "/tmp"}])
def test_neither_and_both_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="exactly one of"):
        settings(**given)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"no config\.json"):
        settings(model_dir=tmp_path)


@pytest.mark.parametrize("run_id", ["Run", "a/b", "-a", "a" * 64])
def test_a_run_id_that_is_no_run_id_is_refused(run_id: str) -> None:
    with pytest.raises(ValidationError):
        settings(run_id=run_id)
