"""A user's first steps, in one process and the commands that it starts. Prints "fine"."""

import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from this_system import APART, STOP, read_line

from fense_admin import __version__, databases
from fense_admin.standin import StandIn

COMMAND = Path(sys.executable).with_name("fense-admin")
ACCOUNT = {"api_key": "sk_test_smoke_0001", "name": "Acme Ltd", "email": "owner@acme.example"}


def call(url, key, body=None):
    headers = {"x-api-key": key, "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=10) as answer:
        return json.load(answer)


def run(*arguments, folder):
    return subprocess.run(
        [COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=30
    )


def serve(folder):
    """Start the service, create an account, and stop it as a person would."""
    service = subprocess.Popen(
        [COMMAND, "--port=0"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        **APART,
    )  # fmt: skip
    try:
        url = read_line(service.stdout, 20).split("url=")[1].split()[0]
        assert call(f"{url}/accounts", "local-dev-key", ACCOUNT)["fense_account_id"] == 1
        service.send_signal(STOP)
        log = service.communicate(timeout=20)[1]
        assert service.returncode == 0, log
    finally:
        service.kill()


with StandIn() as fense:
    assert fense.create_account()["fense_account_id"] == 1
    assert call(f"{fense.url}/accounts/1", fense.headers["x-api-key"])["fense_account_id"] == 1
with tempfile.TemporaryDirectory() as folder:
    assert run("--version", folder=folder).stdout == f"fense-admin {__version__}\n"
    serve(folder)
    database = databases.open_database(f"{folder}/fense-admin.sqlite3")
    assert database.count_accounts() == 1
    database.engine.close_all()
    asks = "import os, sys; sys.exit(7 if os.environ['FENSE_BASE_URL'] else 1)"
    assert run("exec", "--", sys.executable, "-c", asks, folder=folder).returncode == 7
print("fine")
