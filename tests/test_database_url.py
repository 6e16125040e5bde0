"""A URL in place of a file's name: which are refused, and that no password is shown."""

import pytest

from fense_admin import engines
from fense_admin.models import Database

PASSWORD = "pw-Zq81xK"
TRIED = (
    ":// is not supported: SQLite (a file's name) and PostgreSQL 15 (postgresql://...) were tried"
)
NONE = "must be a file's name, :memory:, or a URL as postgresql://host/name"
OF_NO_ENGINE = [
    (f"cockroachdb://fense:{PASSWORD}@db.example/fense", f"cockroachdb{TRIED}"),
    (f"mysql://fense:{PASSWORD}@db.example/fense", f"mysql{TRIED}"),
    (f"sqlite:///tmp/fense.sqlite3?password={PASSWORD}", f"sqlite{TRIED}"),
    (f"postgresql+psycopg://fense:{PASSWORD}@db.example/fense", NONE),
    (f"POSTGRESQL://fense:{PASSWORD}@db.example/fense", NONE),
    (f" postgresql://fense:{PASSWORD}@db.example/fense", NONE),
    (f"postgresql:fense:{PASSWORD}@db.example/fense", NONE),
    (f"postgresql//fense:{PASSWORD}@db.example/fense", NONE),
    (f"postgres:/fense:{PASSWORD}@db.example/fense", NONE),
    (f"fense:{PASSWORD}@db.example/fense", NONE),
    (f"host=db.example dbname=fense password = {PASSWORD}", NONE),
]


@pytest.mark.parametrize(("url", "told"), OF_NO_ENGINE)
def test_a_url_of_no_engine_is_refused_in_a_sentence_without_its_password(run_command, url, told):
    ways = [(("serve", "--database", url), {}), ((), {"FENSE_ADMIN_DATABASE": url})]
    ways += [((command, f"--database={url}"), {}) for command in ("serve", "backup")]
    for arguments, environment in ways:
        arguments = [*arguments, "copy"] if "backup" in arguments else arguments
        code, out, errors = run_command(*arguments, **environment)
        assert (code, out) == (2, "")
        assert errors.splitlines()[-1].endswith("(or set in FENSE_ADMIN_DATABASE)")
        assert told in errors
        assert PASSWORD not in errors
    with pytest.raises(engines.Unusable, match="the database's name") as refused:
        Database(url)
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ("{}",),
        ("--quiet", "{}"),
        ("--databse", "{}"),
        ("--databse={}",),
        ("--seed", "{}"),
        ("backup", "{}"),
        ("record", "{}", "1"),
        ("health", "{}"),
    ],
)
def test_a_url_with_a_password_is_refused_where_none_belongs(run_command, arguments):
    url = f"postgresql://fense:{PASSWORD}@db.example/fense"
    code, out, errors = run_command(*(argument.format(url) for argument in arguments))
    assert (code, out) == (2, "")
    assert "a URL with a password belongs in FENSE_ADMIN_DATABASE, or to --database" in errors
    assert PASSWORD not in errors


@pytest.mark.parametrize("name", ["fense.sqlite3", "a folder/fense:1", "user@host.sqlite3"])
def test_a_file_may_have_any_other_name(name):
    assert engines.check_name(name) == name
