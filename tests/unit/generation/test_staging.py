import subprocess
import sys
from pathlib import Path

from preceptor.generation.adapters.staging import StagingFolder, remove_abandoned

_HOLD_AND_DIE = """
import os, sys
from pathlib import Path
from preceptor.generation.adapters.staging import StagingFolder
folder = StagingFolder(Path(sys.argv[1]))
print(folder.path)
sys.stdout.flush()
os.kill(os.getpid(), 9)
"""


def test_the_folder_of_a_killed_generator_is_removed_by_the_next(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", _HOLD_AND_DIE, tmp_path], capture_output=True, text=True, check=False, timeout=30
    )
    left = Path(killed.stdout.strip())
    assert left.is_dir()
    StagingFolder(tmp_path).remove()
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_live_generator_is_left_alone(tmp_path: Path) -> None:
    live = StagingFolder(tmp_path)
    assert remove_abandoned(tmp_path) == []
    assert live.path.is_dir()
    live.remove()


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "preceptor-generation-unlocked").mkdir()
    (tmp_path / "something").mkdir()
    assert remove_abandoned(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == 2
