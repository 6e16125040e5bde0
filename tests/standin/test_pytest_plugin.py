"""The pytest fixture is reset before each test, and a run without it loads nothing."""

import os
import runpy
import subprocess
import sys
import textwrap
import types

import pytest
from conftest import few, run_pytest

import pytest_fense_admin

SUITE = """
    import urllib.error, urllib.request
    import pytest

    def get(fense, path):
        request = urllib.request.Request(fense.url + path, headers=fense.headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status

    @pytest.mark.parametrize("number", range(6))
    def test_each_begins_clean(fense, number):
        assert [account["name"] for account in fense.state()["accounts"]] == ["Of the seed"]
        assert fense.requests() == []
        assert fense.create_account()["fense_account_id"] == 2
        assert get(fense, "/accounts/2") == 200
        fense.fail(503)
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(fense, "/accounts/2")
        caught.value.close()

    def test_the_server_is_the_sessions(fense, fense_server):
        assert fense is fense_server
        assert fense.url.endswith("/admin")
"""

OPTIONS = """
    import pytest

    @pytest.fixture(scope="session")
    def fense_options():
        account = {"api_key": "seed", "name": "Of the seed", "email": "a@b.example"}
        return {"seed": {"accounts": [account]}, "prefix": "/admin"}
"""

OVERRIDDEN = """
    import pytest

    @pytest.fixture(scope="session")
    def fense_options():
        return {"prefix": "/elsewhere"}

    def test_it_is_elsewhere(fense):
        assert fense.url.endswith("/elsewhere")
"""

FAILING = """
    import urllib.error, urllib.request

    def get(fense, path):
        request = urllib.request.Request(fense.url + path, headers=fense.headers)
        try:
            urllib.request.urlopen(request, timeout=10).close()
        except (urllib.error.HTTPError, ConnectionError) as error:
            getattr(error, "close", lambda: None)()

    def test_it_fails(fense):
        fense.create_account()
        for _ in range(19):
            get(fense, "/accounts/usage")
        get(fense, "/accounts/1?colour=red")
        fense.fail(503)
        get(fense, "/accounts/1")
        fense.fail(drop="empty")
        get(fense, "/accounts/2")
        fense.fail(429, path="/never", times=2)
        assert "no" == "yes"

    def test_it_passes(fense):
        get(fense, "/accounts/9")

    def test_it_has_none(fense):
        assert "no" == "yes"
"""

OTHERS = """
    import urllib.error, urllib.request
    import pytest

    @pytest.fixture
    def client(fense):
        request = urllib.request.Request(fense.url + "/accounts/7", headers=fense.headers)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        caught.value.close()
        assert False, "in the setup"

    def test_it_fails_in_its_setup(client):
        pass

    def test_it_asks_late(request):
        request.getfixturevalue("client")

    class TestAnotherFense:
        @pytest.fixture
        def fense(self):
            return "http://fense.example"

        def test_it_fails(self, fense):
            assert fense == "another"

    class TestAWrappedFense:
        @pytest.fixture
        def fense(self, fense):
            return fense.url

        def test_it_fails(self, fense):
            urllib.request.urlopen(f"{fense}/healthz", timeout=10).close()
            assert fense == "another"
"""

CHANGED = """
    import pytest

    @pytest.mark.parametrize("prefix", ["/one", "/two"])
    def test_options_that_are_changed_in_place_are_followed(fense_options, request, prefix):
        fense_options["prefix"] = prefix
        assert request.getfixturevalue("fense").url.endswith(prefix)
"""

UNUSED = """
    import sys

    def test_nothing_of_the_service_is_loaded():
        names = ("bottle", "peewee", "waitress", "fense_admin")
        assert not [name for name in sys.modules if name.partition(".")[0] in names]
"""


@pytest.mark.parametrize(
    ("arguments", "plugins"),
    few([(("-n", "2"), ("pytest_fense_admin", "xdist")), (("-p", "no:schemathesis"), None)]),
    ids=["xdist", "alone"],
)
def test_the_fixture_is_clean_before_each_test(tmp_path, arguments, plugins):
    # Alone, pytest loads the plugins that are installed, ours by its entry point.
    (tmp_path / "conftest.py").write_text(OPTIONS.replace("\n    ", "\n"))
    (tmp_path / "test_suite.py").write_text(SUITE.replace("\n    ", "\n"))
    assert "7 passed" in run_pytest(tmp_path, *arguments, plugins=plugins)


@pytest.mark.slow
def test_options_may_differ_from_folder_to_folder(tmp_path):
    (tmp_path / "conftest.py").write_text(OPTIONS.replace("\n    ", "\n"))
    (tmp_path / "test_suite.py").write_text(SUITE.replace("\n    ", "\n"))
    for name in ("a", "z"):
        (tmp_path / f"test_{name}.py").write_text(OVERRIDDEN.replace("\n    ", "\n"))
    assert "9 passed" in run_pytest(tmp_path)


@pytest.mark.slow
def test_options_may_be_changed_in_place(tmp_path):
    (tmp_path / "test_suite.py").write_text(textwrap.dedent(CHANGED))
    assert "2 passed" in run_pytest(tmp_path)


def test_a_run_without_the_fixture_loads_nothing(tmp_path):
    (tmp_path / "test_suite.py").write_text(UNUSED.replace("\n    ", "\n"))
    assert "1 passed" in run_pytest(tmp_path)


def test_a_failed_test_shows_its_requests_and_the_faults_that_were_never_used(tmp_path):
    (tmp_path / "test_suite.py").write_text(textwrap.dedent(FAILING))
    output = run_pytest(tmp_path)
    assert "2 failed, 1 passed" in output
    shown = output.split("requests to fense")[1].partition("\n")[2].splitlines()
    assert shown[:1] == ["(2 earlier requests)"]
    assert shown[1:18] == ["GET /accounts/usage 200"] * 17
    assert shown[18:22] == [
        "GET /accounts/1?colour=red 400: colour is not accepted here",
        "GET /accounts/1 503 (fault 1)",
        "GET /accounts/2 no response (fault 2)",
        "never used: the armed fault 3 (status=429, path='/never', times=2)",
    ]
    assert output.count("requests to fense") == 1


def test_a_report_is_shown_for_every_use_of_the_fixture_and_no_other_test(tmp_path):
    (tmp_path / "test_suite.py").write_text(textwrap.dedent(OTHERS))
    output = run_pytest(tmp_path)
    assert "3 failed, 1 error" in output
    assert output.count("GET /accounts/7 404: no account has this fense_account_id") == 2
    assert output.count("requests to fense") == 2


def test_the_plugin_loads_in_an_old_pytest(monkeypatch):
    """The plugin is loaded in every run, with any installed version of pytest."""
    old = types.SimpleNamespace(fixture=pytest.fixture, hookimpl=pytest.hookimpl)
    monkeypatch.setitem(sys.modules, "pytest", old)
    assert "fense" in runpy.run_path(pytest_fense_admin.__file__)


@pytest.mark.needs("pip")
@pytest.mark.slow
def test_an_old_pytest_runs_other_tests_and_has_the_fixtures(tmp_path):
    pip = [sys.executable, "-m", "pip", "install", "-q", "--target", tmp_path / "old"]
    installed = subprocess.run([*pip, "pytest==6.2.5"], capture_output=True, text=True, timeout=100)
    if "No matching distribution" in installed.stderr:
        pytest.skip(f"needs a package index: {installed.stderr}")
    assert installed.returncode == 0, installed.stderr
    (tmp_path / "pytest.ini").write_text("[pytest]\n")  # the plugins that ours needs are too new
    (tmp_path / "test_other.py").write_text(textwrap.dedent(UNUSED))
    (tmp_path / "test_suite.py").write_text(textwrap.dedent(FAILING))
    environment = {
        "PYTHONPATH": str(tmp_path / "old"),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_PLUGINS": "pytest_fense_admin",
    }
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "test_other.py",
            "test_suite.py",
        ],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    output = ended.stdout + ended.stderr
    assert "2 failed, 2 passed" in output
    assert output.count("requests to fense") == 1
