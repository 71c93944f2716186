"""Two databases on a PostgreSQL server: a given one, or one started from the binaries of the package pgserver."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from preceptor.common.errors import FailedPrecondition
from preceptor.common.process import die_with_parent
from preceptor.common.waiting import wait_until

if TYPE_CHECKING:
    from sqlalchemy import Engine

UNPRIVILEGED = "nobody"  # PostgreSQL refuses to run as root
_START_TIMEOUT_S = 120.0


@contextmanager
def databases(url: str | None, folder: Path, *, required: bool) -> Iterator[tuple[str, str] | None]:
    """Yields the URLs of two empty databases, dropped afterwards; None without a server, unless one is required.

    Raises:
        FailedPrecondition: a server is required and there is neither a URL nor pgserver.
    """
    if url is not None:
        with _made_on(url) as made:
            yield made
        return
    if importlib.util.find_spec("pgserver") is None:
        if required:
            raise FailedPrecondition("no PostgreSQL: give --postgres-url, or pip install pgserver")
        yield None
        return
    with _server(folder) as started, _made_on(started) as made:
        yield made


@contextmanager
def _made_on(url: str) -> Iterator[tuple[str, str]]:
    parsed = make_url(url).set(drivername="postgresql+psycopg")
    names = [f"preceptor_bench_{secrets.token_hex(4)}_{kind}" for kind in ("empty", "filled")]
    admin = create_engine(parsed, isolation_level="AUTOCOMMIT")
    try:
        for name in names:
            _run(admin, f"CREATE DATABASE {name}")
        plain = parsed.set(drivername="postgresql")
        empty, filled = (plain.set(database=name).render_as_string(hide_password=False) for name in names)
        yield empty, filled
    finally:
        for name in names:
            _run(admin, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        admin.dispose()


def _run(engine: Engine, statement: str) -> None:
    with engine.connect() as connection:
        connection.execute(text(statement))


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """A server with PostgreSQL's durable defaults, on a Unix socket alone. Yields its URL."""
    import pgserver
    from pgserver.utils import ensure_folder_permissions, ensure_prefix_permissions

    binaries = Path(pgserver.__file__).parent / "pginstall" / "bin"
    user = UNPRIVILEGED if os.geteuid() == 0 else None
    home = folder / "postgresql"
    home.mkdir()
    if user is not None:
        os.chown(home, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        folder.chmod(0o755)
        ensure_prefix_permissions(binaries)
        ensure_folder_permissions(binaries, 0o055)
        ensure_folder_permissions(binaries.parent / "lib", 0o044)
    log = home / "log"
    data = str(home / "data")
    url = f"postgresql://postgres@/postgres?host={home}"
    made = _popen(binaries / "initdb", user, log, "-D", data, "-U", "postgres", "--auth=trust", "--encoding=utf8")
    if made.wait(_START_TIMEOUT_S) != 0:
        raise FailedPrecondition(f"PostgreSQL's initdb failed:\n{log.read_text(errors='replace')[-1000:]}")
    process = _popen(binaries / "postgres", user, log, "-D", data, "-h", "", "-k", str(home))
    try:
        wait_until(lambda: _answers(process, url, log), _START_TIMEOUT_S, "PostgreSQL to answer", interval_s=0.2)
        yield url
    finally:
        process.send_signal(signal.SIGQUIT)  # at once: nobody needs a checkpoint of what is deleted next
        process.wait(_START_TIMEOUT_S)


def _popen(program: Path, user: str | None, log: Path, *args: str) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(
            [str(program), *args], cwd=log.parent, user=user, stdout=file, stderr=file, preexec_fn=die_with_parent
        )


def _answers(process: subprocess.Popen[bytes], url: str, log: Path) -> bool:
    if process.poll() is not None:
        raise FailedPrecondition(f"PostgreSQL ended:\n{log.read_text(errors='replace')[-1000:]}")
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    try:
        engine.connect().close()
    except OperationalError:
        return False
    finally:
        engine.dispose()
    return True
