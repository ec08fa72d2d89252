"""A real PostgreSQL server in a folder, for as long as a test needs it."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = [os.environ["PATH"], *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/folder/jobs.sqlite"
    else:
        with postgres(tmp_path) as address:
            yield address


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Start a server that listens on a socket in the folder, and give the URL of its database; skip without one."""
    initdb, pg_ctl = (shutil.which(name, path=":".join(PROGRAMS)) for name in ("initdb", "pg_ctl"))
    if not (initdb and pg_ctl):
        pytest.skip("no PostgreSQL server on this machine: install the package postgresql")
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    # The server refuses to run as root. Its socket stands in /tmp, since the path of a socket has at most 107 bytes.
    user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.getuid() == 0 else []
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(_short_folder()))

        def run(*words: str) -> None:
            subprocess.run([*user, *words], check=True, stdout=subprocess.DEVNULL, cwd=place)

        run(initdb, "--pgdata", str(place / "data"), "--username=enflow", "--auth=trust", "--no-sync")
        options = f"-k {place} -c listen_addresses='' -c fsync=off"
        run(pg_ctl, "start", "-w", "-D", str(place / "data"), "-l", str(place / "log"), "-o", options)
        stack.callback(run, pg_ctl, "stop", "-D", str(place / "data"), "-m", "immediate")
        yield f"postgresql://enflow@/postgres?host={place}"


@contextlib.contextmanager
def _short_folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as folder:
        if os.getuid() == 0:
            shutil.chown(folder, "nobody", "nogroup")
        yield folder
