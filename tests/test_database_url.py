"""Database URLs: which ones are rejected, and that no password is shown."""

import ntpath
import random
import socket
import types

import pytest

from fense_admin import cli, databases, engines

PASSWORD = "pw-Zq81xK"
TRIED = ":// is not supported: only SQLite (a file name) and PostgreSQL (postgresql://...) are"
NONE = "must be a file name, :memory:, or a URL such as postgresql://host/name"
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


@pytest.mark.parametrize(("url", "reported"), OF_NO_ENGINE)
def test_an_unsupported_url_is_rejected_without_showing_its_password(run_command, url, reported):
    ways = [(("serve", "--database", url), {}), ((), {"FENSE_ADMIN_DATABASE": url})]
    ways += [((command, f"--database={url}"), {}) for command in ("serve", "backup")]
    for arguments, environment in ways:
        arguments = [*arguments, "copy"] if "backup" in arguments else arguments
        code, out, errors = run_command(*arguments, **environment)
        assert (code, out) == (2, "")
        assert errors.splitlines()[-1].endswith("(or set in FENSE_ADMIN_DATABASE)")
        assert reported in errors
        assert PASSWORD not in errors
    with pytest.raises(engines.Unusable, match="the database's name") as refused:
        databases.open_database(url)
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
def test_a_url_with_a_password_in_the_wrong_place_is_rejected(run_command, arguments):
    url = f"postgresql://fense:{PASSWORD}@db.example/fense"
    code, out, errors = run_command(*(argument.format(url) for argument in arguments))
    assert (code, out) == (2, "")
    message = "pass a URL with a password in FENSE_ADMIN_DATABASE or --database"
    if arguments[0] == "health":
        message = "a health check needs no password: remove it from the URL"
    assert message in errors
    assert PASSWORD not in errors


@pytest.mark.parametrize("name", ["fense.sqlite3", "a folder/fense:1", "user@host.sqlite3"])
def test_a_file_may_have_any_other_name(name):
    assert engines.check_name(name) == name


@pytest.fixture
def windows_paths(monkeypatch):
    """`os.path` as on Windows, for the names of files."""
    monkeypatch.setattr(engines, "os", types.SimpleNamespace(path=ntpath, sep="\\"))


@pytest.mark.parametrize(
    "name",
    [
        r"C:\Users\me@corp\fense.sqlite3",
        "c:/Users/me@corp/fense.sqlite3",
        "C://fense.sqlite3",
        "C:fense.sqlite3",
        r"\\server\share\me@corp\fense.sqlite3",
        r"\\?\C:\Users\me@corp\fense.sqlite3",
        "NUL",
    ],
)
def test_a_windows_path_is_not_a_url(windows_paths, name):
    assert engines.check_name(name) == name


@pytest.mark.parametrize(
    "name", [f"u:{PASSWORD}@db.example/fense", f"//fense:{PASSWORD}@db.example/a/fense"]
)
def test_a_url_is_not_a_windows_path(windows_paths, name):
    with pytest.raises(ValueError, match=NONE):
        engines.check_name(name)


def test_each_argument_may_be_a_windows_path(windows_paths, capsys):
    path = r"C:\Users\me@corp\missing.json"
    parser = cli.build_parser()
    for arguments in (["backup", path], ["serve", "--seed", path], ["serve", f"--seed={path}"]):
        cli.refuse_passwords(arguments, parser)
    for word in (f"--seed=u:{PASSWORD}@x", f"--u:{PASSWORD}@x", f"--u:{PASSWORD}@x=1"):
        with pytest.raises(SystemExit):
            cli.refuse_passwords(["serve", word], parser)
    assert PASSWORD not in capsys.readouterr().err


# Where a password may be written, on ports where nothing listens
PLACES = [
    "postgresql://fense:{}@127.0.0.1:1/fense",
    "postgres://fense:{}@127.0.0.1:1,127.0.0.1:2/fense?sslmode=require",
    "postgresql://:{}@[::1]:1/fense",
    "postgresql://fense:{}@nowhere.invalid/f@nse",
    "postgresql://fense:{}@/fense?host=/nowhere",
    "postgresql://fense:{}@127.0.0.1:1/fense?application_name=a@b",
    "postgresql://fense@127.0.0.1:1/fense?password={}",
    "postgresql://fense@127.0.0.1:1/fense?sslpassword={}&sslmode=disable",
]


@pytest.mark.parametrize("place", PLACES)
def test_no_password_is_shown_whatever_surrounds_it(monkeypatch, place):
    """libpq ends it at the first "@" or "/"; a person may have meant a later one."""

    def no_such_name(*_, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    choose = random.Random(627)
    special = [*"@/?#%:&=[],\"' ", "%zz", "%40", "%aa", "@", "/", "a", "1", "\udcff"]
    for _ in range(50):
        parts = [PASSWORD, *choose.choices(special, k=choose.randint(0, 4))]
        choose.shuffle(parts)
        url = place.format("".join(parts))
        with pytest.raises(engines.Unusable) as refused:
            databases.open_database(url)
        assert PASSWORD not in str(refused.value), url
        str(refused.value).encode()  # can be printed


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://[::1]:5432/fense",
        "postgresql://fense@[::1]:5432,[::2]/fense?application_name=a:b@c",
        "postgresql://127.0.0.1:5432/post@gres",
        "postgresql://fense@db.example/post@gres",
        "postgresql:///?service=fense",
        "postgres://",
    ],
)
def test_move_accepts_any_url_without_a_password(run_command, url):
    code, out, errors = run_command("move", "missing.sqlite3", url)
    assert (code, out) == (1, "")
    assert (
        errors == "fense-admin: there is no database file missing.sqlite3: choose one that exists\n"
    )
    assert not engines.may_hold_password(url)


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://fense:{PASSWORD}@[::1]:5432/fense",
        f"postgresql://fense:{PASSWORD}@db.example",
        f"postgresql://fense@db.example/fense?password={PASSWORD}",
        f"postgresql://fense@db.example/fense?pass%77ord={PASSWORD}",
        f"postgresql://fense@db.example/fense?oauth_client_secret={PASSWORD}",
        f"postgresql://fense:{PASSWORD}/1@db.example/fense",
        f"postgresql://fense@more:{PASSWORD}@db.example/fense",
        f"fense:{PASSWORD}@db.example/fense",
        f"host=db.example password = '{PASSWORD}'",
    ],
)
def test_move_rejects_a_url_that_may_hold_a_password(run_command, text):
    code, out, errors = run_command("move", text, "copy.sqlite3")
    assert (code, out) == (2, "")
    assert "pass the password in PGPASSWORD or ~/.pgpass" in errors
    assert PASSWORD not in errors
