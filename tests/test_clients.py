"""Both OpenAPI documents pass linters, and clients generated from them work."""

import sys

import pytest
from conftest import CHECKOUT, COMMAND, npm_install, run_program, tools
from openapi_document import DOCUMENTS

pytestmark = pytest.mark.slow

CLIENTS = CHECKOUT / "tests" / "clients"
PRINTED = {  # by each program of that name, whatever its language
    "contract": "Acme Ltd {none} {true} 0\n400 {field} ok\n",
    "control": "{lookups} 1 {now} 16\n0 the fault does nothing: give it a status, a drop or a delay_ms\n",
}
# What the linters say and we leave as it is.
ARGUED = {
    # They take no body, parameter or key that could be wrong.
    "redocly operation-4xx-response #/paths/~1healthz/get/responses",
    "redocly operation-4xx-response #/paths/~1openapi.json/get/responses",
    # There is nobody to name: whoever runs it is the one to ask.
    "spectral info-contact info",
}


def run_beside_a_service(*command, cwd):
    return run_program(COMMAND, "exec", "--", *command, cwd=cwd)


@pytest.fixture(scope="module")
def node_modules():
    tools("npm")
    return npm_install("tests/clients")


def test_the_linters_have_nothing_else_to_say(node_modules, tmp_path):
    files = [DOCUMENTS[name].write(tmp_path / f"{name}.json") for name in DOCUMENTS]
    found = run_program("node", "lint.mjs", *files, cwd=CLIENTS).splitlines()
    assert set(found) == ARGUED
    assert found.count("spectral info-contact info") == 2


def test_the_linters_find_errors(node_modules, tmp_path):
    worse = DOCUMENTS["contract"].write(tmp_path / "worse.json")
    text = worse.read_text()
    worse.write_text(text.replace('"operationId": "getAccount"', '"operationId": "getUsage"'))
    found = run_program("node", "lint.mjs", worse, cwd=CLIENTS)
    assert "redocly operation-operationId-unique" in found
    assert "spectral operation-operationId-unique" in found


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_typescript_client_compiles_and_runs(node_modules, tmp_path, name):
    (tmp_path / "node_modules").symlink_to(node_modules)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / f"{name}.ts").write_bytes((CLIENTS / f"{name}.ts").read_bytes())
    binaries = node_modules / ".bin"
    document = DOCUMENTS[name].write(tmp_path / "document.json")
    run_program(binaries / "openapi-typescript", document, "-o", f"{name}-api.d.ts", cwd=tmp_path)
    options = "--strict --module nodenext --target es2022 --lib es2022,dom --skipLibCheck"
    run_program(binaries / "tsc", *options.split(), f"{name}.ts", cwd=tmp_path)
    assert run_beside_a_service("node", f"{name}.js", cwd=tmp_path) == PRINTED[name].format(
        none="null",
        true="true",
        field="name",
        lookups="[ 7 ]",
        now="2026-11-30T23:59:59Z",
    )


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_python_client_is_typed_and_runs(tmp_path, name):
    pytest.importorskip(
        "openapi_python_client", reason="needs openapi-python-client, so Python 3.11"
    )
    (tmp_path / "config.yml").write_text("post_hooks: []")  # its code as it is
    (tmp_path / f"{name}.py").write_bytes((CLIENTS / f"{name}.py").read_bytes())
    binaries = COMMAND.parent
    document = DOCUMENTS[name].write(tmp_path / "document.json")
    generate = [binaries / "openapi-python-client", "generate", "--path", document]
    options = f"--meta none --config config.yml --output-path {name}_api --fail-on-warning"
    run_program(*generate, *options.split(), cwd=tmp_path)
    run_program(sys.executable, "-m", "mypy", "--strict", f"{name}.py", f"{name}_api", cwd=tmp_path)
    assert run_beside_a_service(sys.executable, f"{name}.py", cwd=tmp_path) == PRINTED[name].format(
        none=None, true=True, field="api_key", lookups=[7], now="2026-11-30T23:59:59+00:00"
    )
