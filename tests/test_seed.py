"""A seed fills an empty database before it is served; errors name the file and the path in it."""

import os

import pytest
from conftest import SEED_FILE, sentence


def test_a_seed_fills_an_empty_database_before_the_ready_line(start):
    service = start("--port=0", "--seed", SEED_FILE)
    service.ready()
    assert service.call("/accounts/usage/1")[1]["total_lookups"] == 19
    service.call("/accounts/1", {"name": "Changed"})
    assert service.end()[0] == 0
    again = start("--port=0", FENSE_ADMIN_SEED=str(SEED_FILE))
    again.ready()
    assert again.call("/accounts/1")[1]["name"] == "Changed"
    before_ready = again.errors.read_text("utf-8")
    why = f"the database already has accounts: {SEED_FILE} is not loaded"
    assert f" {why}; to load it, choose an empty --database\n" in before_ready


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"accounts": [{"name": 1, "api_key": "k", "email": "a@b"}]}', "accounts[0].name must be"),
        ("{", "is not valid JSON"),
        ("[" * 50_000, "is n"),  # nested too deeply, or no JSON from Python 3.14 on
        ("[]", "must be an object"),
        ("\ufeff[]".encode("utf-16-le"), "is UTF-16, as PowerShell 5 writes files"),
        (None, "No such file or directory"),
    ],
)
@pytest.mark.parametrize("command", [["--port=0"], ["exec", "--", "true"]])
def test_a_bad_seed_is_named_by_file_and_place(run_command, tmp_path, command, text, message):
    if text is not None:
        (tmp_path / "bad.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    at = -2 if "--" in command else len(command)
    arguments = [*command[:at], "--seed=bad.json", *command[at:]]
    line = sentence(run_command(*arguments))
    assert "bad.json" in line
    assert message in line
    assert "fense-admin.sqlite3" not in os.listdir(tmp_path)
