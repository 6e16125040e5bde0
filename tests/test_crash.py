"""What was acknowledged survives kill -9 and a power cut; soak.py is the long form of it."""

import pytest
import soak
from conftest import in_threads


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
