"""Connections to PostgreSQL: addresses, settings, and what is rejected."""

import contextlib
import ipaddress
import shutil
import socket
import subprocess
import threading
import time
import types

import psycopg
import pytest
from conftest import (
    FIELDS,
    MASTER_KEY,
    in_background,
    in_threads,
    run_program,
    tools,
    wait_until,
)
from postgresql_server import start_server

from fense_admin import databases, engines

KEY = {"DISPUTE_MASTER_KEY": MASTER_KEY}


def setting(db, name):
    return db.engine.execute_sql(f"SHOW {name}").fetchone()[0]


def connection_of(db):
    [connection] = db.engine._connections
    return connection


@pytest.fixture
def own(postgresql):
    """A new database on the server: a function that runs SQL about it, and its URL."""
    name = "post@gres"  # a name is any text
    postgresql.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    postgresql.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    yield (
        lambda text: postgresql.execute(f'ALTER DATABASE "{name}" {text}'),
        f"postgresql://fense@127.0.0.1:{postgresql.port}/{name}",
    )
    postgresql.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


# --- What a URL means ----------------------------------------------------------------------------


def test_an_at_sign_after_the_host_is_an_ordinary_character(postgresql, open_database, own):
    for url in (postgresql.empty(), own[1]):
        url = url.replace("fense@", "fense:secret@")
        for parameter, name, value in (
            ("?application_name=fense@node1", "application_name", "fense@node1"),
            ("?sslrootcert=/etc/ssl/db@prod.pem", "application_name", "fense-admin"),
            ("?options=-cwork_mem%3D5MB", "work_mem", "5MB"),
        ):
            assert setting(open_database(url + parameter), name) == value


def test_a_password_goes_to_no_host_behind_a_later_at_sign(postgresql, open_database):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        url = postgresql.empty().replace("fense@", "fense:secret@")
        open_database(f"{url}?application_name=me@127.0.0.1:{port}")
        other.settimeout(0.1)
        with pytest.raises(TimeoutError):
            other.accept()


@pytest.mark.slow
def test_a_server_at_an_ipv6_address_needs_no_user_in_its_url(monkeypatch, open_database):
    tools("pg_ctl")
    with contextlib.closing(start_server("listen_addresses=127.0.0.1,::1")) as server:
        monkeypatch.setenv("PGUSER", "fense")
        for user in ("", "fense@", "fense:secret@"):
            db = open_database(f"postgresql://{user}[::1]:{server.port}/postgres")
            assert db.count_accounts() == 0


@pytest.mark.parametrize("rest", ["@/?#%", "@more", "/more", "@more/again", "%zz"])
def test_an_unencoded_password_is_rejected_and_never_looked_up(postgresql, monkeypatch, rest):
    looked_up = []

    def look_up(host, *_, **options):
        looked_up.append(host)
        raise socket.gaierror("there is none")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    url = f"postgresql://fense:pw-Zq81xK{rest}@db.example/postgres"
    with pytest.raises(engines.Unusable, match="in a password write @ as %40, ") as refused:
        databases.open_database(url)
    assert "pw-Zq81xK" not in str(refused.value)
    assert "more" not in str(refused.value)
    assert not any("@" in host for host in looked_up)


def test_bytes_that_are_not_utf_8_are_passed_unchanged(postgresql, open_database):
    url = postgresql.empty().replace("fense@", "fense:%e9'\\%20@")
    assert open_database(url).count_accounts() == 0


# --- Settings ------------------------------------------------------------------------------------

FOREIGN = {
    "client_min_messages": ("error", "warning"),
    "DateStyle": ("'SQL, DMY'", "ISO, DMY"),
    "default_transaction_isolation": ("serializable", "read committed"),
    "default_transaction_read_only": ("on", "off"),
    "idle_in_transaction_session_timeout": ("1", "10s"),
    "lock_timeout": ("1", "0"),
    "row_security": ("off", "on"),
    "standard_conforming_strings": ("off", "on"),
    "statement_timeout": ("'7s'", "2400ms"),
}


def test_a_session_has_our_settings_whatever_its_database_says(own, open_database):
    alter, url = own
    for name, (theirs, _) in FOREIGN.items():
        alter(f"SET {name} = {theirs}")
    db = open_database(url)
    ours = {name: ours for name, (_, ours) in FOREIGN.items()}
    assert {name: setting(db, name) for name in FOREIGN} == ours
    assert db.create_account(FIELDS)["fense_account_id"] == 1


def test_the_service_relies_on_settings_that_options_do_not_change(postgresql, open_database):
    options = "-cdefault_transaction_isolation%3Dserializable%20-cDateStyle%3DGerman"
    db = open_database(f"{postgresql.empty()}?options={options}%20-clock_timeout%3D3s")
    assert setting(db, "default_transaction_isolation") == "read committed"
    assert setting(db, "DateStyle").startswith("ISO")
    assert setting(db, "lock_timeout") == "3s"


APPLIED_FAULT = """
CREATE SEQUENCE met;
CREATE FUNCTION meet() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF nextval('met') < 4 THEN RAISE 'met another' USING ERRCODE = '40P01'; END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER meet BEFORE DELETE ON fense_admin FOR EACH STATEMENT EXECUTE FUNCTION meet();
"""


def test_a_migration_is_retried_after_a_conflict(postgresql, open_database):
    url = postgresql.new()
    open_database(url).create_account(FIELDS)
    postgresql.execute(f"SET search_path = {url.rpartition('%3D')[2]}; {APPLIED_FAULT}")
    before = postgresql.execute("SELECT count(*) FROM pg_stat_activity")
    assert open_database(url).count_accounts() == 1
    counted = "SELECT count(*) - 1 FROM pg_stat_activity"
    wait_until(lambda: postgresql.execute(counted) == before)


SERVICE = """
[fense]
host=127.0.0.1
port={port}
dbname=postgres
user=fense
application_name=of the service
options=-c statement_timeout=7s -c jit=on
connect_timeout=9
tcp_user_timeout=7000
"""


@pytest.mark.parametrize("variable", ["PGSERVICEFILE", "PGSYSCONFDIR"])
@pytest.mark.parametrize("url", ["postgresql:///?service=fense", "postgresql://"])
def test_a_service_file_wins_over_our_settings(
    postgresql, open_database, monkeypatch, tmp_path, variable, url
):
    postgresql.empty()
    file = tmp_path / "pg_service.conf"
    file.write_text(SERVICE.format(port=postgresql.port))
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    monkeypatch.setenv(variable, str(file if variable == "PGSERVICEFILE" else tmp_path))
    if "service" not in url:
        monkeypatch.setenv("PGSERVICE", "fense")
    monkeypatch.setenv("PGAPPNAME", "of a variable")  # libpq ranks it below
    db = open_database(url)
    assert setting(db, "application_name") == "of the service"
    assert setting(db, "statement_timeout") == "7s"
    assert setting(db, "jit") == "on"
    connection = connection_of(db)
    known = {it.keyword: it.val for it in connection.pgconn.info}
    assert (known[b"connect_timeout"], known[b"tcp_user_timeout"]) == (b"9", b"7000")
    assert known[b"target_session_attrs"] == b"primary"
    db = open_database("postgresql:///?service=fense&application_name=of%20the%20URL")
    assert setting(db, "application_name") == "of the URL"


@pytest.mark.parametrize("way", ["URL", "variable"])
def test_a_value_equal_to_libpqs_default_also_wins(postgresql, open_database, monkeypatch, way):
    url = postgresql.empty()
    if way == "variable":
        monkeypatch.setenv("PGTARGETSESSIONATTRS", "any")
    else:
        url += "?target_session_attrs=any"
    connection = connection_of(open_database(url))
    assert {it.keyword: it.val for it in connection.pgconn.info}[b"target_session_attrs"] == b"any"


def test_a_missing_service_is_reported(monkeypatch, tmp_path):
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "none"))
    with pytest.raises(engines.Unusable, match=r'service file ".*none" not found'):
        databases.open_database("postgresql:///?service=fense")


# --- Addresses -----------------------------------------------------------------------------------


@pytest.fixture
def silent():
    """Makes an address, on this port, where no handshake completes: a machine that is off."""
    with contextlib.ExitStack() as stack:

        def make(host="127.0.0.1", port=0):
            server = stack.enter_context(socket.create_server((host, port), backlog=0))
            for _ in range(3):  # fill its queue
                client = stack.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(server.getsockname())
            return server.getsockname()[1]

        yield make


def seconds(work, *arguments):
    began = time.monotonic()
    work(*arguments)
    return time.monotonic() - began


def with_hosts(postgresql, *ports):
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return postgresql.empty().replace(f"127.0.0.1:{postgresql.port}", hosts)


@pytest.mark.slow
def test_dead_addresses_before_the_live_one_cost_little_and_only_once(
    postgresql, open_database, silent
):
    db = open_database(with_hosts(postgresql, *(silent() for _ in range(5)), postgresql.port))
    db.engine.close_all()
    assert seconds(db.count_accounts) < 1
    # The address that worked has died, say.
    db.engine._connector._worked = db.engine._connector.hosts[0]
    db.engine.close_all()
    assert seconds(db.count_accounts) < 2


@pytest.mark.slow
@pytest.mark.parametrize("way", ["variables", "service"])
def test_hosts_that_the_url_does_not_name_are_tried_as_well(
    postgresql, open_database, monkeypatch, silent, tmp_path, way
):
    postgresql.empty()
    ports = f"{silent()},{silent()},{postgresql.port}"
    if way == "variables":
        monkeypatch.setenv("PGHOST", "127.0.0.1,127.0.0.1,127.0.0.1")
        monkeypatch.setenv("PGPORT", ports)
    else:
        text = f"[hosts]\nhost=127.0.0.1,127.0.0.1,127.0.0.1\nport={ports}\n"
        (tmp_path / "services").write_text(text)
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
        monkeypatch.setenv("PGSERVICE", "hosts")
    db = open_database("postgresql://fense@/postgres")
    db.engine.close_all()
    assert seconds(db.count_accounts) < 1


def test_the_live_address_of_a_name_is_used(postgresql, open_database, monkeypatch, silent):
    silent("127.0.0.2", postgresql.port)

    def two_addresses(host, *arguments, **options):
        assert host == "db.example"
        found = look_up("127.0.0.2", *arguments, **options)
        return found + look_up("127.0.0.1", *arguments, **options)

    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    url = postgresql.empty().replace("127.0.0.1", "db.example")
    assert seconds(open_database, url) < 2
    db = open_database(url)
    assert connection_of(db).info.host == "db.example"  # the certificate's name


@pytest.mark.slow
def test_a_server_that_takes_writes_is_preferred(open_database, postgresql):
    """Like a planned switchover, where the old primary becomes read-only."""
    tools("pg_ctl")
    with contextlib.closing(start_server()) as other:
        db = open_database(with_hosts(postgresql, other.port, postgresql.port))
        assert setting(db, "port") == str(other.port)
        other.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        other.execute("SELECT pg_reload_conf()")
        wait_until(lambda: other.execute("SHOW default_transaction_read_only") == [("on",)])
        wait_until(lambda: setting(db, "default_transaction_read_only") == "on")
        assert db.create_account(FIELDS)["fense_account_id"] == 1
        assert setting(db, "port") == str(postgresql.port)
        other.stop()
        assert db.count_accounts() == 1


@pytest.mark.slow
def test_the_error_names_each_address_that_failed(silent):
    ports = silent(), 1
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    with pytest.raises(engines.Unusable) as refused:
        databases.open_database(f"postgresql://fense@{hosts},nowhere.invalid/postgres")
    for reported in (
        f'"127.0.0.1", port {ports[0]} failed: timeout expired',
        '"127.0.0.1", port 1 failed: Connection refused',
        'can\'t look up the host "nowhere.invalid": ',
    ):
        assert reported in str(refused.value)


def test_a_unix_socket_and_an_address_are_not_looked_up(
    postgresql, open_database, monkeypatch, tmp_path
):
    monkeypatch.setattr(socket, "getaddrinfo", None)
    url = postgresql.empty()
    by_address = url.replace("127.0.0.1", "db.example") + "?hostaddr=127.0.0.1"
    assert open_database(by_address).count_accounts() == 0
    with pytest.raises(engines.Unusable, match=r'on socket ".*PGSQL\.5432" failed: No such file'):
        databases.open_database(f"postgresql://fense@/postgres?host={tmp_path}")
    with pytest.raises(engines.Unusable, match="could not match 2 port numbers to 1 hosts"):
        databases.open_database("postgresql://fense@127.0.0.1/postgres?port=1,2")


# --- Look-ups of names ---------------------------------------------------------------------------


@pytest.mark.slow
def test_while_a_name_server_hangs_there_is_one_look_up(postgresql, open_database, monkeypatch):
    answers, look_up, pending, most = threading.Event(), socket.getaddrinfo, [], []
    answers.set()

    def resolve(host, *arguments, **options):
        pending.append(host)
        most.append(len(pending))
        answers.wait(60)
        pending.pop()
        return look_up("127.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    db = open_database(postgresql.empty().replace("127.0.0.1", "db.example"))
    db.engine.close_all()
    answers.clear()
    try:

        def ask():
            with pytest.raises(engines.DatabaseError, match=r"the (name )?server does not respond"):
                db.count_accounts()

        assert seconds(lambda: in_threads(8, ask)) < 4
        for _ in range(3):
            assert seconds(ask) < 4
        assert len(pending) == max(most) == 1
    finally:
        answers.set()
    wait_until(lambda: not pending)
    assert db.count_accounts() == 0


def test_an_address_is_used_while_the_look_up_of_another_host_hangs(
    postgresql, open_database, monkeypatch
):
    answers = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **options: answers.wait(60) and [])
    try:
        url = postgresql.empty().replace("127.0.0.1", "db.example,127.0.0.1")
        assert seconds(open_database, url) < 2
    finally:
        answers.set()


# --- What is refused at the start ----------------------------------------------------------------


class PgBouncer:
    """A pgbouncer in front of a server."""

    def __init__(self, server, *settings):
        [program] = tools("pgbouncer")
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.port = sock.getsockname()[1]
        file = server.folder / f"pgbouncer-{self.port}.ini"
        lines = [
            "[databases]",
            f"postgres = host=127.0.0.1 port={server.port} user=fense",
            "[pgbouncer]",
            "listen_addr = 127.0.0.1",
            f"listen_port = {self.port}",
            "unix_socket_dir =",
            "auth_type = any",
            *settings,
        ]
        file.write_text("\n".join(lines))
        self.process = subprocess.Popen(
            [program, "-q", file],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **server.user,
        )
        self.url = f"postgresql://fense@127.0.0.1:{self.port}/postgres"

    def __enter__(self):
        def is_up():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return True

        wait_until(is_up)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def ask(url, query):
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query).fetchone()[0]


@pytest.mark.needs("a PostgreSQL server of its own")
@pytest.mark.parametrize(
    "size",
    [
        "server_round_robin = 1",
        *(pytest.param(f"default_pool_size = {size}", marks=pytest.mark.slow) for size in (1, 20)),
    ],
)
@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_a_pooler_that_shares_sessions_is_rejected(postgresql, mode, size):
    postgresql.empty()
    with PgBouncer(postgresql, f"pool_mode = {mode}", size) as pooler:
        for sessions in (1, 2, 3):  # that its pool has, if it may
            in_threads(sessions, lambda: ask(pooler.url, "SELECT pg_sleep(0.2)"))
            with pytest.raises(engines.Unusable, match="set pool_mode=session"):
                databases.open_database(pooler.url)
        assert ask(pooler.url, "SHOW statement_timeout") == "0"


@pytest.mark.needs("a PostgreSQL server of its own")
def test_a_pooler_that_shares_sessions_with_busy_clients_is_rejected(postgresql):
    postgresql.empty()
    ended = threading.Event()

    def be_busy():
        with psycopg.connect(pooler.url, autocommit=True) as connection:
            while not ended.is_set():
                connection.execute("SELECT pg_sleep(random() * 0.005)", prepare=False)

    settings = ["pool_mode = transaction", "server_round_robin = 1"]
    with PgBouncer(postgresql, *settings) as pooler, in_background(be_busy, 6, ended.set):
        for _ in range(3):
            with pytest.raises(engines.Unusable, match="set pool_mode=session"):
                databases.open_database(pooler.url)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 20])
def test_a_pooler_that_keeps_sessions_apart_is_used(postgresql, open_database, size):
    postgresql.empty()
    postgresql.execute("ALTER ROLE fense SET default_transaction_isolation = 'serializable'")
    try:
        settings = ["pool_mode = session", f"default_pool_size = {size}"]
        with PgBouncer(postgresql, *settings) as pooler:
            db = open_database(pooler.url)
            assert len(db.engine._connections) == 1  # the one to compare sessions with is closed
            assert setting(db, "default_transaction_isolation") == "read committed"
            assert setting(db, "statement_timeout") == "2400ms"
            assert db.create_account(FIELDS)["fense_account_id"] == 1
    finally:
        postgresql.execute("ALTER ROLE fense RESET ALL")


def test_a_lagging_id_counter_is_rejected_with_the_fix(postgresql, open_database):
    """Like a subscriber of logical replication, which doesn't copy sequences."""
    url = postgresql.new()
    schema = url.rpartition("%3D")[2]
    db = open_database(url)
    for number in range(3):
        db.create_account(FIELDS | {"api_key": f"key-{number}"})
    postgresql.execute(f"SELECT setval('{schema}.account_fense_account_id_seq', 1)")
    with pytest.raises(engines.Unusable) as refused:
        databases.open_database(url)
    assert "the highest id in use is 3, but the counter is at 1" in str(refused.value)
    assert "SELECT setval('account_fense_account_id_seq', N)" in str(refused.value)
    postgresql.execute(f"SELECT setval('{schema}.account_fense_account_id_seq', 3)")
    assert open_database(url).create_account(FIELDS)["fense_account_id"] == 4


# --- TLS -----------------------------------------------------------------------------------------


def own_address():
    """An address of this machine that is not on loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.connect(("192.0.2.1", 1))  # sends nothing
        if not sock.getsockname()[0].startswith("127."):
            return sock.getsockname()[0]
    return pytest.skip("needs a network")


@pytest.fixture(scope="module")
def reachable(tmp_path_factory):
    """A server on all addresses, with TLS for db.example; and the file of its certificate."""
    tools("pg_ctl")
    [openssl] = tools("openssl")
    certificate = tmp_path_factory.mktemp("tls") / "certificate.pem"
    with contextlib.closing(start_server("listen_addresses=*")) as server:
        key, own = server.data / "server.key", server.data / "server.crt"
        run_program(
            *[openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"],
            *["-subj", "/CN=db.example", "-addext", "subjectAltName=DNS:db.example"],
            *["-keyout", key, "-out", certificate],
            cwd=server.data,
        )
        shutil.copy(certificate, own)
        for file in (key, own) if server.user else ():
            shutil.chown(file, server.user["user"], server.user["group"])
        with open(server.data / "pg_hba.conf", "a") as file:
            file.write("host all all all trust\n")
        server.execute("ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()")
        wait_until(lambda: server.execute("SHOW ssl") == [("on",)])
        yield server, certificate


def test_a_server_that_is_not_on_this_machine_is_warned_of(postgresql, open_database, monkeypatch):
    elsewhere = types.SimpleNamespace(is_loopback=False)
    monkeypatch.setattr(ipaddress, "ip_address", lambda _: elsewhere)
    warning = open_database(postgresql.empty()).engine.info.warning
    assert warning.startswith("the connection to 127.0.0.1 is not encrypted: add ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "sslmode", "is_warned"),
    [
        (None, "disable", True),
        (None, "require", False),
        ("127.0.0.1", "disable", False),
        ("localhost", "disable", False),
    ],
)
def test_a_server_on_another_machine_without_tls_is_warned_of(
    reachable, open_database, host, sslmode, is_warned
):
    host = host or own_address()
    url = f"postgresql://fense@{host}:{reachable[0].port}/postgres?sslmode={sslmode}"
    reported = f"the connection to {host} is not encrypted: add sslmode=verify-full to the URL"
    assert open_database(url).engine.info.warning.startswith(reported) == is_warned


@pytest.mark.needs("a PostgreSQL server of its own")
@pytest.mark.slow
def test_the_warning_is_in_the_log_of_the_start(reachable, start):
    address = own_address()
    url = f"postgresql://fense@{address}:{reachable[0].port}/postgres?sslmode=disable"
    service = start("--port=0", "--quiet", FENSE_ADMIN_DATABASE=url, **KEY)
    service.ready()
    assert f"the connection to {address} is not encrypted: add" in service.end()[2]


@pytest.mark.needs("a PostgreSQL server of its own")
def test_a_certificate_is_checked_against_the_name_in_the_url(
    reachable, open_database, monkeypatch
):
    server, certificate = reachable
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda _, *rest, **options: look_up("127.0.0.1", *rest, **options)
    )
    rest = f":{server.port}/postgres?sslmode=verify-full&sslrootcert={certificate}"
    assert open_database(f"postgresql://fense@db.example{rest}").count_accounts() == 0
    with pytest.raises(engines.Unusable, match='not match host name "other'):
        databases.open_database(f"postgresql://fense@other.example{rest}")
