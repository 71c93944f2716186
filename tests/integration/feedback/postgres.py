"""A real PostgreSQL 16.2 server (binaries of the pgserver package) that ends with the test process."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pgserver
import psycopg
from pgserver.utils import ensure_folder_permissions, ensure_prefix_permissions

from preceptor.common.process import die_with_parent
from preceptor.common.waiting import wait_until

BIN = Path(pgserver.__file__).parent / "pginstall" / "bin"
_END_OTHER_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
UNPRIVILEGED = "nobody"  # PostgreSQL refuses to run as root


class PostgresProcess:
    """A server on a Unix socket alone, with PostgreSQL's durable defaults (fsync and synchronous_commit on).

    Use as a context manager. pgserver's own start gives up after ten seconds, which a busy machine exceeds.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="preceptor-pg-"))
        self._user = UNPRIVILEGED if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            os.chown(self._folder, account.pw_uid, account.pw_gid)
            ensure_prefix_permissions(BIN)
            ensure_folder_permissions(BIN, 0o055)
            ensure_folder_permissions(BIN.parent / "lib", 0o044)

    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self._folder}"

    def empty_database(self) -> str:
        """The URL of the one database, emptied. One per test would cost minutes of making and deleting files."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(_END_OTHER_SESSIONS)
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return self.url()

    def __enter__(self) -> "PostgresProcess":
        data = self._folder / "data"
        made = self._popen("initdb", "-D", str(data), "-U", "postgres", "--auth=trust", "--encoding=utf8", "--locale=C")
        assert made.wait(120) == 0, self._log.read_text()
        self._process = self._popen("postgres", "-D", str(data), "-h", "", "-k", str(self._folder))
        wait_until(self._answers, 120, "PostgreSQL to answer")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # at once: nobody needs a checkpoint of what is deleted next
            self._process.wait(60)
        shutil.rmtree(self._folder)

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def _popen(self, program: str, *args: str) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [str(BIN / program), *args],
                cwd=self._folder,
                user=self._user,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        try:
            psycopg.connect(self.url()).close()
        except psycopg.OperationalError:
            return False
        return True
