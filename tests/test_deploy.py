"""deploy/ with Debian's own tools: the units under systemd, and a real nginx in front."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from conftest import (
    CHECKOUT,
    COMMAND,
    MASTER_KEY,
    SERVICE_KEY,
    TIMEOUT,
    Process,
    few,
    free_port,
    in_background,
    refusal,
    run_pytest,
    tools,
)
from postgresql_server import PostgreSQL

pytestmark = pytest.mark.needs("systemd")

DEPLOY = CHECKOUT / "deploy"
GUIDE = (DEPLOY / "README.md").read_text("utf-8")
KEYS = {"DISPUTE_MASTER_KEY": MASTER_KEY, "DISPUTE_SERVICE_KEYS": SERVICE_KEY}


def run(*command):
    """Run a command, which must succeed, and return its output."""
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def replaced(text, replacements):
    """Replace texts, each of which must occur."""
    for old, new in replacements.items():
        assert old in text, old
        text = text.replace(old, str(new))
    return text


# --- systemd -----------------------------------------------------------------------------------


def systemd_analyze():
    """The command. Skips the test if it can't create its own files, as in a chroot."""
    (command,) = tools("systemd-analyze")
    probe = [command, "verify", "--man=no", "basic.target"]
    result = subprocess.run(probe, capture_output=True, text=True, timeout=TIMEOUT)
    if result.returncode:
        pytest.skip(f"needs a machine that systemd knows: {result.stderr.splitlines()[-1]}")
    return [command]


@pytest.fixture
def units(tmp_path):
    """A folder with the units, in which the command is where these tests have it."""
    command = tmp_path / "command"  # by a path that a unit can have, which a checkout's may not be
    command.symlink_to(COMMAND)
    for unit in DEPLOY.glob("fense-admin*"):
        there = {"/opt/fense-admin/bin/fense-admin": command} if unit.suffix == ".service" else {}
        (tmp_path / unit.name).write_text(replaced(unit.read_text(), there))
    return tmp_path


def test_systemd_accepts_the_units(units):
    paths = list(units.glob("fense-admin*"))
    assert len(paths) == 4
    assert run(*systemd_analyze(), "verify", *paths) == ""


def test_the_service_is_confined(units):
    # 0.2 is left, for what it can't be without: Python, among the files of the machine, and the
    # clock's device, which ProtectClock itself lets it read.
    security = ("security", "--offline=true", "--threshold=2")  # in tenths
    run(*systemd_analyze(), *security, units / "fense-admin.service")


def test_the_units_serve_and_back_up_as_they_say(tmp_path, units, start):
    unit = (units / "fense-admin.service").read_text()
    # What EnvironmentFile sets wins, so that one line there names a server.
    assert unit.index("Environment=") < unit.index("EnvironmentFile=") < unit.index("ExecStart=")
    (database,) = re.findall("^Environment=FENSE_ADMIN_DATABASE=(.*)", unit, re.M)
    database = replaced(database, {"/var/lib/fense-admin": tmp_path})
    service = start("--port=0", FENSE_ADMIN_DATABASE=database, **KEYS)
    service.ready()
    backups = tmp_path / "backups"
    backups.mkdir()
    for name, days in (("old", 32), ("young", 1)):
        (backups / name).touch()
        os.utime(backups / name, (time.time() - days * 86_400,) * 2)
    unit = (units / "fense-admin-backup.service").read_text()
    for line in re.findall("^ExecStart(?:Post)?=(.*)", unit, re.M):
        line = line.replace("$$", "$").replace("%%", "%")
        assert subprocess.run(line, shell=True, cwd=tmp_path, timeout=TIMEOUT).returncode == 0
    service.end()
    copy, young = sorted(path.name for path in backups.iterdir())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d{4}\.sqlite3", copy)
    assert young == "young"


@pytest.fixture(scope="module")
def server_with_tls(certificate):
    """A PostgreSQL server, whose certificate is for localhost."""
    tools("pg_ctl")
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to nobody
        folder = Path(name)
        for file in (certificate.file, certificate.key):
            shutil.copy(file, folder)
        key = folder / certificate.key.name
        key.chmod(0o600)
        if os.geteuid() == 0:  # the server runs as nobody
            for path in (folder, key):
                shutil.chown(path, "nobody")
        settings = [f"ssl_cert_file={folder / certificate.file.name}", f"ssl_key_file={key}"]
        with contextlib.closing(PostgreSQL("ssl=on", *settings)) as server:
            yield server


@pytest.mark.parametrize(
    "host", ["db.example", pytest.param("db1.example,db2.example", marks=pytest.mark.slow)]
)
def test_the_unit_reaches_a_server_over_tls(tmp_path, start, certificate, server_with_tls, host):
    """Run it like systemd: without our variables, with a home hidden by ProtectHome."""
    hidden = tmp_path / "home"
    hidden.mkdir(mode=0)
    unit = (DEPLOY / "fense-admin.service").read_text()
    assert "\nProtectHome=yes\n" in unit
    (url,) = re.findall(rf"^FENSE_ADMIN_DATABASE=(\S+@{host}/\S+)$", GUIDE, re.M)
    url = replaced(
        url,
        {
            host: f"localhost:{server_with_tls.port}",
            "/fense?": "/postgres?",
            "/etc/ssl/certs/ca-certificates.crt": certificate.file,
        },
    )
    variables = [f"HOME={hidden}/fense-admin", *re.findall("^Environment=(.*)", unit, re.M)]
    variables += [f"FENSE_ADMIN_DATABASE={url}", f"DISPUTE_MASTER_KEY={MASTER_KEY}"]
    ordinary = []
    if os.geteuid() == 0:  # which may look into any folder
        ordinary = [*tools("setpriv"), "--bounding-set=-dac_override,-dac_read_search"]
    command = [*ordinary, "env", "-i", *variables, COMMAND]
    with start("--port=0", command=command) as service:
        service.ready()
        tls = (
            "SELECT ssl FROM pg_stat_ssl NATURAL JOIN pg_stat_activity WHERE application_name = %s"
        )
        with psycopg.connect(server_with_tls.url) as connection:
            assert set(connection.execute(tls, ["fense-admin"])) == {(True,)}
        assert service.end()[0] == 0


# --- the image: tests/image.py builds and runs it -----------------------------------------------


@pytest.mark.parametrize("flags", few([["--quiet", "--host=127.0.0.1", "--port"], ["--port"]]))
def test_a_health_check_finds_the_port_that_a_flag_gives_process_1(start, tmp_path, flags):
    unshare, nsenter = tools("unshare", "nsenter")
    namespaces = [unshare, "--user", "--map-root-user", "--pid", "--mount-proc"]
    if subprocess.run([*namespaces, "--fork", "true"], capture_output=True, timeout=30).returncode:
        pytest.skip("needs namespaces")
    command = [*namespaces, "--fork", "--kill-child", COMMAND]
    service = start(*flags, str(free_port()), command=command)
    service.ready()
    unshared = service.process.pid
    pid = Path(f"/proc/{unshared}/task/{unshared}/children").read_text().strip()
    inside = [nsenter, f"--target={pid}", "--user", "--pid", "--mount", COMMAND]
    assert start("health", command=inside, name="health").end(None)[:2] == (0, "")
    os.kill(int(pid), signal.SIGTERM)
    assert service.end(None)[0] == 0


# --- nginx -------------------------------------------------------------------------------------

MINIMAL = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log warn;
events {{}}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site;
}}
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    openssl, _ = tools("openssl", "nginx")
    folder = tmp_path_factory.mktemp("certificate")
    it = SimpleNamespace(file=folder / "certificate.pem", key=folder / "key.pem")
    run(
        *(openssl, "req", "-x509", "-newkey", "ec", "-nodes", "-days", "1"),
        *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"),
        *(
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout",
            it.key,
            "-out",
            it.file,
        ),
    )
    it.context = ssl.create_default_context(cafile=it.file)
    return it


class Nginx:
    """nginx as deploy/nginx.conf has it, on a free port, in front of ports of this machine.

    With several upstreams it has the `upstream` block of deploy/README.md.
    """

    def __init__(self, folder, certificate, *upstreams, **timeouts):
        self.certificate, self.port, self.folder = certificate, free_port(), folder
        letsencrypt = "/etc/letsencrypt/live/fense.example"
        block, site = re.compile("upstream .*?\n}", re.DOTALL), (DEPLOY / "nginx.conf").read_text()
        if len(upstreams) > 1:
            site = block.sub(block.search(GUIDE)[0], site)
        for address, port in zip(re.findall(r"\S+:8642", site), upstreams, strict=True):
            site = site.replace(address, f"127.0.0.1:{port}")
        site = replaced(
            site,
            {
                "listen 443 ssl;": f"listen 127.0.0.1:{self.port} ssl;",
                "listen [::]:443 ssl;": "",
                f"{letsencrypt}/fullchain.pem": certificate.file,
                f"{letsencrypt}/privkey.pem": certificate.key,
                "server_name fense.example;": "server_name localhost;",
                "/var/log/nginx/fense-admin.log": folder / "access.log",
            },
        )
        for name, seconds in timeouts.items():
            site, count = re.subn(rf"(?<={name}) \d+m?s;", f" {int(seconds * 1000)}ms;", site)
            assert count == 1, name
        (folder / "site").write_text(site)
        (folder / "nginx.conf").write_text(MINIMAL.format(folder=folder))
        self.command = [*tools("nginx"), "-p", folder, "-c", folder / "nginx.conf"]
        self.command += ["-e", folder / "error.log"]

    def __enter__(self):
        self.process = subprocess.Popen(self.command)
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port), timeout=10).close()
                return self
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                pytest.fail((self.folder / "error.log").read_text())
            time.sleep(0.01)

    def kill(self):
        self.process.kill()
        self.process.wait(timeout=10)

    def __exit__(self, *_):
        self.process.terminate()
        try:
            assert self.process.wait(timeout=10) == 0
        finally:
            self.kill()

    def connect(self, secure=True):
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        if not secure:
            return sock
        try:
            return self.certificate.context.wrap_socket(sock, server_hostname="localhost")
        except OSError:
            sock.close()
            raise

    def talk(self, raw, secure=True):
        """Send bytes. Return status, headers and body of the response."""
        with self.connect(secure) as sock:
            sock.sendall(raw)
            answer = http.client.HTTPResponse(sock, method="HEAD" if raw[:4] == b"HEAD" else None)
            answer.begin()
            return answer.status, answer.headers, answer.read()

    def ask(self, method, path, *headers, key=MASTER_KEY):
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: localhost",
            f"x-api-key: {key}",
            *headers,
            "",
            "",
        ]
        return self.talk("\r\n".join(lines).encode())


@pytest.fixture(scope="module")
def nginx(tmp_path_factory, certificate):
    """nginx in front of a service that has its control plane on, for who gets there."""
    folder = tmp_path_factory.mktemp("nginx")
    flags = ("--port=0", "--database=:memory:", "--standin")
    with (
        Process(folder, *flags, **KEYS) as service,
        Nginx(folder, certificate, service.ready().rpartition(":")[2]) as nginx,
    ):
        assert service.call("/_standin/state", key=MASTER_KEY)[0] == 200
        yield nginx
        service.end()


@pytest.fixture
def listener():
    """A listening socket in place of the service's, to see what reaches it."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield SimpleNamespace(
            accept=sock.accept,
            settimeout=sock.settimeout,
            setsockopt=sock.setsockopt,
            port=sock.getsockname()[1],
        )


def test_nginx_accepts_its_site(tmp_path, certificate):
    # (Without a command of its own to say so, it tells of success on standard error.)
    output = run(*Nginx(tmp_path, certificate, 1).command, "-t")
    assert "successful" in output
    assert "[" not in output  # no [warn], nor worse


# A zero byte in a path: nginx itself rejects it as invalid HTTP.
ZERO_BYTE = "test_paths.py::test_an_unknown_path_is_not_found_with_or_without_a_key[/%00-None]"
THROUGH_NGINX = [
    f"tests/contract/{name}" for name in ("test_paths.py", "test_responses.py", "test_refusals.py")
]


@pytest.mark.slow
def test_a_comparison_through_nginx_finds_no_difference(tmp_path, certificate, start, run_command):
    flags = ("--port=0", "--database=:memory:", "--seed=demo")
    upstream = start(*flags, **KEYS).ready().rpartition(":")[2]
    with Nginx(tmp_path, certificate, upstream) as nginx:
        url = f"https://localhost:{nginx.port}"
        code, out, _ = run_command("compare", url, f"--ca-file={certificate.file}", **KEYS)
    assert (code, " 0 differ" in out) == (0, True), out


@pytest.mark.slow
def test_the_contract_holds_through_nginx(tmp_path, certificate, start):
    """Of it, what nginx could change: paths, methods, headers, errors and the bytes of a body.

    What the service makes of a request that got there, test_contract_over_http.py looks at.
    """
    # Takes seconds, as each test is a TLS handshake and a few requests, one after another.
    service = start("--port=0", "--database=:memory:", **KEYS)
    upstream = service.ready().rpartition(":")[2]
    with Nginx(tmp_path, certificate, upstream) as nginx:
        environment = KEYS | {"SSL_CERT_FILE": str(certificate.file)}
        url = f"https://127.0.0.1:{nginx.port}/"
        left_out = ("--deselect", f"tests/contract/{ZERO_BYTE}")
        output = run_pytest(
            CHECKOUT, *THROUGH_NGINX, "--fense-url", url, *left_out, plugins=(), **environment
        )
        request_id = nginx.ask("GET", "/accounts/1")[1]["X-Request-Id"]
    log = service.end()[2]
    assert re.search(r"^[34]\d\d passed, \d+ skipped, 1 deselected in ", output, re.M), output
    access_log = (tmp_path / "access.log").read_text()
    for text in (log, access_log):
        assert text.splitlines()[-1].endswith(f" {request_id}")
        assert MASTER_KEY not in text
        assert not re.search(r"\?\S* \d{3} ", text)  # behind a path: a reason may ask
    assert (tmp_path / "error.log").read_text() == ""  # nor of a body in a temporary file


def check_error(answer, status, code, message, request_id=None):
    assert (answer[0], json.loads(answer[2])) == (status, refusal(code=code, message=message))
    headers = answer[1]
    assert headers["Content-Type"] == "application/json"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Server"] == "nginx"
    assert headers["X-Request-Id"] == request_id or re.fullmatch(
        "[0-9a-f]+", headers["X-Request-Id"]
    )
    assert headers["Retry-After"] == ("1" if status == 503 else None)
    assert "X-Standin" not in headers  # nginx's own


NOT_HTTP = (400, "bad_request", "the request is not valid HTTP/1.1 over TLS")
LONG_HEADER = "the request line and headers exceed the maximum of 16384 bytes"
TOO_LONG = (431, "request_header_fields_too_large", LONG_HEADER)
TOO_LARGE = (413, "payload_too_large", "the body exceeds the maximum of 131072 bytes")
NOT_FOUND = (404, "not_found", "there is no such path")
UNAVAILABLE = (
    503,
    "service_unavailable",
    "the service is temporarily unavailable; it is unknown whether the change was saved",
)
HOST = b" HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"nonsense\r\n\r\n", NOT_HTTP),
        (b"get /" + HOST + b"\r\n", NOT_HTTP),
        (b"GET / HTTP/1.1\r\n\r\n", NOT_HTTP),
        (b"GET / HTTP/2.0\r\n\r\n", NOT_HTTP),
        (b"GET /%00" + HOST + b"\r\n", NOT_HTTP),
        (b"GET /../_standin" + HOST + b"\r\n", NOT_HTTP),
        (b"POST /" + HOST + b"Content-Length: x\r\n\r\n", NOT_HTTP),
        (b"POST /" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", NOT_HTTP),
        (b"GET /" + b"x" * 17_000 + HOST + b"\r\n", TOO_LONG),
        (b"GET /" + HOST + b"X: " + b"x" * 17_000 + b"\r\n\r\n", TOO_LONG),
        (b"POST /accounts" + HOST + b"Content-Length: 131073\r\n\r\n", TOO_LARGE),
        (b"TRACE /accounts" + HOST + b"Content-Length: 131073\r\n\r\n", TOO_LARGE),
        (b"GET /_error" + HOST + b"\r\n", NOT_FOUND),
        (
            b"POST /" + HOST + b"Transfer-Encoding: gzip\r\n\r\n",
            (501, "not_implemented", "chunked is the only supported transfer coding"),
        ),
    ],
    ids=lambda value: ascii(value[:30]) if isinstance(value, bytes) else "",
)
def test_errors_of_nginx_have_the_error_shape(nginx, raw, expected):
    check_error(nginx.talk(raw), *expected)


def test_plain_http_on_the_tls_port_gets_the_error_shape(nginx):
    check_error(nginx.talk(b"GET /" + HOST + b"\r\n", secure=False), *NOT_HTTP)


def test_errors_of_nginx_keep_the_request_id(nginx):
    asked = b"POST /accounts" + HOST + b"X-Request-Id: %s\r\nContent-Length: 999999\r\n\r\n"
    assert nginx.talk(asked % b"mine")[1]["X-Request-Id"] == "mine"
    check_error(nginx.talk(asked % b"not mine"), *TOO_LARGE)
    status, headers, body = nginx.talk(b"HEAD /_error" + HOST + b"X-Request-Id: x\r\n\r\n")
    assert (status, headers["X-Request-Id"], body) == (404, "x", b"")


@pytest.mark.parametrize("size", [65_537, 131_072])
def test_a_body_that_the_service_rejects_reaches_it(nginx, size):
    answer = nginx.ask("POST", "/accounts", f"Content-Length: {size}\r\n\r\n{'x' * size}")
    assert (answer[0], answer[1]["X-Standin"] is not None) == (413, True)
    assert (
        json.loads(answer[2])["error"]["message"] == "the body exceeds the maximum of 65536 bytes"
    )


def test_a_header_that_the_service_accepts_reaches_it(nginx):
    assert nginx.ask("GET", "/accounts/usage", "X: " + "x" * 16_000)[0] == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "TRACE"])
@pytest.mark.parametrize(
    "path",
    [
        *("/_standin", "/_standin/", "/_standin/state", "/_standin?x", "/_standin/x/../state"),
        *("//_standin/state", "///_standin", "/./_standin/state", "/x/../_standin/state"),
        *("/x/..//_standin/state", "/%5Fstandin/state", "/%5fst%61ndin%2Fstate", "/%2F_standin"),
        *("/%2e/_standin", "/x%2F..%2F_standin/state", "http://localhost/_standin/state"),
    ],
)
def test_the_control_plane_is_unreachable_however_it_is_spelt(nginx, method, path):
    answer = nginx.ask(method, path)
    if method == "HEAD":
        assert (answer[0], answer[1]["X-Standin"]) == (404, None)
    else:
        check_error(answer, *NOT_FOUND)


def test_the_service_gets_the_path_that_nginx_has_checked(nginx):
    for method, status in (("GET", 200), ("TRACE", 405)):
        answer = nginx.ask(
            method, "/_standin/../%61ccounts/x/../usage?start_date=2026-11-01&end_date=2026-11-30"
        )
        assert (answer[0], answer[1]["X-Standin"] is not None) == (status, True)
    assert nginx.ask("GET", "/accounts//usage")[0] == 404


@pytest.mark.slow
def test_slow_or_broken_requests_do_not_reach_the_service(tmp_path, certificate, listener):
    listener.settimeout(0.3)
    with (
        Nginx(
            tmp_path, certificate, listener.port, client_header_timeout=1, client_body_timeout=1
        ) as nginx,
        nginx.connect() as early,
        nginx.connect() as late,
        nginx.connect() as fast,
    ):
        early.sendall(b"POST /accounts HTTP/1.1\r\nHost: loc")
        late.sendall(b"POST /accounts" + HOST + b"Content-Length: 9\r\n\r\n1234")
        fast.sendall(b"POST /accounts" + HOST + b"Content-Length: 9\r\n\r\n1234")
        with pytest.raises(TimeoutError):
            listener.accept()
        fast.sendall(b"56789")
        with listener.accept()[0] as sock:
            request = sock.recv(65536)
            assert request.endswith(b"\r\n\r\n123456789")
            assert b"\r\nHost: localhost\r\n" in request
            assert b"\r\nConnection:" not in request  # it stays, for the next one
            sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert fast.recv(65536).startswith(b"HTTP/1.1 204")
        assert early.recv(65536) == late.recv(65536) == b""  # closed
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_service_that_is_down_is_unavailable_until_it_is_back(tmp_path, certificate, start):
    port = free_port()
    with Nginx(tmp_path, certificate, port) as nginx:
        for method in ("GET", "POST", "TRACE"):
            check_error(nginx.ask(method, "/accounts/1?x=y"), *UNAVAILABLE)
        service = start(f"--port={port}", "--database=:memory:", **KEYS)
        service.ready()
        assert nginx.ask("GET", "/accounts/usage")[0] == 200
        service.end()
        check_error(nginx.ask("GET", "/accounts/usage"), *UNAVAILABLE)
    logged = (tmp_path / "access.log").read_text()
    assert re.findall(r" (\S+ /\S+ \d+) ", logged) == [
        *("GET /accounts/1 503", "POST /accounts/1 503", "TRACE /accounts/1 503"),
        *("GET /accounts/usage 200", "GET /accounts/usage 503"),
    ]


def test_a_service_that_does_not_respond_is_unavailable(tmp_path, certificate, listener):
    with Nginx(tmp_path, certificate, listener.port, proxy_read_timeout=0.1) as nginx:
        check_error(nginx.ask("GET", "/accounts/1", "X-Request-Id: mine"), *UNAVAILABLE, "mine")


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_client_of_a_frozen_service_waits_5_s_at_most(tmp_path, certificate, listener, nodes):
    # The kernel takes connections for the listener, but little of a large body.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with Nginx(tmp_path, certificate, *[listener.port] * nodes) as nginx:

        def ask(method, *headers):
            began = time.monotonic()
            check_error(nginx.ask(method, "/accounts", *headers), *UNAVAILABLE)
            return time.monotonic() - began

        large = f"Content-Length: 131072\r\n\r\n{'x' * 131_072}"
        requests = [("GET",), ("POST",), ("TRACE",), ("POST", large)]
        with ThreadPoolExecutor(len(requests)) as pool:
            waits = list(pool.map(lambda request: ask(*request), requests))
    assert max(waits) < 5
    assert min(waits) > 4  # the service may take that long


@pytest.mark.slow
def test_a_response_that_takes_4_s_gets_through(tmp_path, certificate, listener):
    def respond_late():
        with listener.accept()[0] as sock:
            sock.recv(65536)
            time.sleep(4)
            sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    listener.settimeout(10)
    with Nginx(tmp_path, certificate, listener.port) as nginx, in_background(respond_late):
        assert nginx.ask("GET", "/accounts/usage")[0] == 204


@pytest.mark.parametrize("method", ["GET", "TRACE"])
def test_a_client_can_not_choose_the_address_of_the_service(
    tmp_path, certificate, listener, method
):
    """The service trusts headers from its own machine, and nginx overwrites them."""
    listener.settimeout(10)
    forged = ["Forwarded: host=evil.example", "X-Forwarded-Proto: ftp"]
    forged += ["X-Forwarded-Host: evil.example", "X-Forwarded-Host: evil2.example"]
    received = []

    def serve():
        with listener.accept()[0] as sock:
            received.append(sock.recv(65536).decode())
            sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with Nginx(tmp_path, certificate, listener.port) as nginx, in_background(serve):
        assert nginx.ask(method, "/", *forged)[0] == 204
    forwarded = re.findall(r"(?i)^((?:x-)?forwarded.*?)\r$", received[0], re.M)
    assert sorted(forwarded) == ["X-Forwarded-Host: localhost", "X-Forwarded-Proto: https"]


def test_a_write_that_may_have_arrived_is_not_sent_twice(tmp_path, certificate, listener):
    arrived = []

    def serve():
        with contextlib.suppress(OSError):  # the listener's end
            while True:
                with listener.accept()[0] as sock:
                    arrived.append(sock.recv(65536)[:5])
                    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    arrived.append(
                        sock.recv(65536)[:5]
                    )  # on the connection that is kept: no answer

    listener.settimeout(0.3)
    with in_background(serve), Nginx(tmp_path, certificate, listener.port) as nginx:
        assert nginx.ask("GET", "/")[0] == 200
        check_error(nginx.ask("POST", "/accounts"), *UNAVAILABLE)
    assert arrived == [b"GET /", b"POST "]
