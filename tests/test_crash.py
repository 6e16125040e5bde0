"""Acknowledged writes survive kill -9 and a power cut. soak.py is the long version."""

import os
import subprocess
import sys

import pytest
import soak
from conftest import CHECKOUT, TIMEOUT, few, in_threads


@pytest.mark.slow
def test_no_acknowledged_write_is_lost_to_kill_9(tmp_path):
    # Takes seconds, as each of the four lives has to write on disk for a while, and then to start.
    with soak.Run(tmp_path, tmp_path / "fense.sqlite3", soak.WRITES) as run:
        for _ in range(4):
            run.wait_for_writes(300)
            run.kill()  # starts it again, and audits what it finds
    assert run.wrong == []
    assert run.total("acknowledged") >= 1200


def test_a_file_is_written_so_that_it_survives_a_power_cut(tmp_path, open_database):
    db = open_database(tmp_path / "fense.sqlite3")
    for look in (lambda: (db.engine.journal_mode, db.engine.synchronous, db.engine.foreign_keys),):
        assert [look(), *in_threads(2, look)] == [("wal", 2, 1)] * 3


ON_MACOS = """
import fcntl, os, stat, sys
from fense_admin import databases, sqlite
control, fsync, synced = fcntl.fcntl, os.fsync, []
def noted_fsync(descriptor):
    synced.append("fsync")
    fsync(descriptor)
def noted(descriptor, command, *more):
    is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
    synced.append(f"{'folder' if is_folder else 'file'} {command == fcntl.F_FULLFSYNC}")
    if "fails" in sys.argv:
        raise OSError(45, "Operation not supported")
    return control(descriptor, command, *more)
fcntl.fcntl, os.fsync = noted, noted_fsync
engine = databases.open_database("fense.sqlite3").engine
with engine.reading() as read:
    for name in "fullfsync", "checkpoint_fullfsync":
        print(engine.execute_sql("PRAGMA " + name).fetchone()[0], read("PRAGMA " + name, {})[0][0])
sqlite.backup("fense.sqlite3", "copy")
print(", ".join(synced))
"""


@pytest.mark.needs("a real Linux")
@pytest.mark.parametrize("how", few(["fails", "works"]))
def test_on_macos_the_disk_itself_is_synced(tmp_path, how, open_database):
    environment = os.environ | {
        "SIMULATED_SYSTEM": "macos",
        "PYTHONPATH": str(CHECKOUT / "tests" / "systems"),
    }
    command = [sys.executable, "-c", ON_MACOS, how]
    out = subprocess.check_output(command, cwd=tmp_path, env=environment, timeout=TIMEOUT)
    assert out.decode() == "1 1\n1 1\nfile True, fsync, folder True, fsync\n"
    assert open_database(tmp_path / "copy").count_accounts() == 0
