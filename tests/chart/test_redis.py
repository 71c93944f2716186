"""The bundled Redis starts as its container would start it."""

import signal
import subprocess
from pathlib import Path

import pytest
import redis

from preceptor.common.embedded_redis import redis_executable
from preceptor.common.waiting import wait_until
from tests.chart.rendering import named, render
from tests.support.ports import free_port


def test_bundled_redis_asks_for_its_password_and_keeps_writes_through_a_kill(tmp_path: Path) -> None:
    objects, port = render(), free_port()
    [container] = named(objects, "StatefulSet", "redis")["spec"]["template"]["spec"]["containers"]
    for folder in ("config", "password", "tmp", "data"):
        (tmp_path / folder).mkdir()
    config = named(objects, "ConfigMap", "redis")["data"]["redis.conf"]
    config = config.replace("port 6379", f"port {port}").replace("dir /data", f"dir {tmp_path}/data")
    (tmp_path / "config" / "redis.conf").write_text(config)
    (tmp_path / "password" / "password").write_text("s3cret.~-")
    script = container["command"][2].replace("/etc/redis-password", f"{tmp_path}/password")
    script = script.replace("/etc/redis/", f"{tmp_path}/config/").replace(
        "/tmp/redis.conf", f"{tmp_path}/tmp/redis.conf"
    )
    env = {"PATH": f"{redis_executable().parent}:/usr/bin:/bin"}
    probe = container["livenessProbe"]["exec"]["command"][2]
    probe = probe.replace("/etc/redis-password", f"{tmp_path}/password").replace("redis-cli", f"redis-cli -p {port}")

    def start() -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(["sh", "-c", script], env=env, stdout=subprocess.DEVNULL)
        wait_until(lambda: subprocess.run(["sh", "-c", probe], env=env, check=False).returncode == 0, 20, "Redis")
        return process

    process = start()
    try:
        arguments = Path(f"/proc/{process.pid}/cmdline").read_text()
        assert "redis-server" in arguments
        assert "s3cret" not in arguments
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=port).ping()
        client = redis.Redis(port=port, password="s3cret.~-")
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] in ("noeviction", b"noeviction")
        for number in range(500):
            client.lpush("acknowledged", number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = start()
        assert redis.Redis(port=port, password="s3cret.~-").llen("acknowledged") == 500
    finally:
        process.terminate()
        process.wait(timeout=20)
