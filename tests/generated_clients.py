"""Compile and run the clients that openapi-generator generates: `make test-clients`.

They are built with Debian's libraries alone. It takes minutes, so `make test` leaves it out.
"""

import functools
import importlib.util
import shutil
from pathlib import Path

import pytest
from conftest import CHECKOUT, COMMAND, run_program, tools
from openapi_document import DOCUMENTS

CLIENTS = CHECKOUT / "tests" / "clients"
GENERATOR = COMMAND.with_name("openapi-generator-cli")
GO_LIBRARIES = "/usr/share/gocode"
VALIDATOR = f"{GO_LIBRARIES}/src/gopkg.in/validator.v2"
TYPHOEUS = "/usr/share/rubygems-integration/all/gems/typhoeus-*"
GUZZLE = "/usr/share/php/GuzzleHttp/autoload.php"
PHP_EXTENSIONS = ["/usr/lib/php/*/curl.so", "/usr/lib/php/*/mbstring.so"]
ANNOTATIONS = "/usr/share/java/geronimo-annotation-1.3-spec.jar"
LINK = "6f1c2a6e-0c1d-4a55-9a3e-0d6f6f0f7d1"
PRINTED = {  # by each program of that name, whatever its language
    "contract": f"""\
1 Acme Ltd owner@acme.example false false true null null 2026-11-23T07:24:00Z 2026-11-23T07:24:00Z
4294967296 Žluťoučký & Söhne 日本 žofie@beta.example false true false 0001 {LINK}1 2026-11-23T07:24:00Z 2026-11-24T00:00:00Z
4294967297 Gamma {LINK}2
Gamma Zürich false {LINK}2
Gamma Zürich false UNLINKED
1 null null null 1002147483648 2026-11-01=2147483648 2026-11-02=1000000000000
1 2026-11-01 2026-11-01 null 2147483648 2026-11-01=2147483648
4294967296 null 2026-11-30 {LINK}1 0
null null 1002147483648 1=1002147483648/null 4294967296=0/{LINK}1 4294967297=0/UNLINKED
400 bad_request api_key: belongs to another account
400 bad_request end_date: is required with start_date
401 unauthorized
403 forbidden
404 not_found
ok 3.1.0 Fense Dispute Integration API
""",
    "control": f"""\
2026-11-30T23:59:59Z true
2
4294967296 Žluťoučký 0002 null 2026-11-30T23:59:59Z 2026-11-01=1000000000000 2026-11-29=2147483649
4294967297 Gamma null {LINK}1 2026-11-30T23:59:59Z
2 null reset true true
POST /accounts/1  503 {{}} true true 1 true true
POST /accounts/1 x null {{}} false true 2 true true
POST /nowhere  404 {{}} true true null true true
16 true 1
400 bad_request
404 not_found [0].fense_account_id: is not the id of an account
401 unauthorized
3.1.0
2
""",
}

run = functools.partial(run_program, timeout=250)


@pytest.fixture(scope="module")
def go(tmp_path_factory):
    """The command, with a separate cache."""
    tools("go", VALIDATOR)
    cache = tmp_path_factory.mktemp("go")
    yield ["env", "CGO_ENABLED=0", "GO111MODULE=off", f"GOCACHE={cache}", "go"]
    shutil.rmtree(cache)


@pytest.fixture
def generate(tmp_path):
    """Generate the client of a document in a language, and return its folder."""
    tools("java")
    if not GENERATOR.exists():
        pytest.skip("needs openapi-generator-cli, which make test-clients installs")

    def generate(name, language, *options):
        document = DOCUMENTS[name].write(tmp_path / "document.json")
        options = ["-g", language, *options, "-o", tmp_path / "made"]
        run(GENERATOR, "generate", "-i", document, *options, cwd=tmp_path)
        return tmp_path / "made"

    return generate


def check(name, *command, cwd, unlinked="null"):
    """Run a program with a service that has the seed of these tests."""
    seed = CLIENTS / "seed.json"
    printed = run(COMMAND, "exec", "--seed", seed, "--", *command, cwd=cwd)
    assert printed == PRINTED[name].replace("UNLINKED", unlinked)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_go_client_compiles_and_reads_everything(go, generate, tmp_path, name):
    package = tmp_path / "src" / "openapi"  # in the older form of GOPATH: modules need a network
    package.mkdir(parents=True)
    for file in generate(name, "go").glob("*.go"):
        shutil.copy(file, package)
    search = ["env", f"GOPATH={tmp_path}:{GO_LIBRARIES}"]
    run(*search, *go, "build", "-o", name, CLIENTS / "go" / f"{name}.go", cwd=tmp_path)
    check(name, tmp_path / name, cwd=tmp_path)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_ruby_client_reads_everything(generate, tmp_path, name):
    tools("ruby", TYPHOEUS)
    library = generate(name, "ruby") / "lib"
    program = CLIENTS / "ruby" / f"{name}.rb"
    check(name, "ruby", "-W0", "-E", "UTF-8", "-I", library, program, cwd=tmp_path)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_php_client_reads_everything(generate, tmp_path, name):
    tools("php", GUZZLE, *PHP_EXTENSIONS)
    client = generate(name, "php")
    options = ["-d", "error_reporting=E_ALL", "-d", "display_errors=1"]
    program = CLIENTS / "php" / f"{name}.php"
    check(name, "env", f"CLIENT={client}", "php", *options, program, cwd=tmp_path)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_java_client_compiles_and_reads_everything(generate, tmp_path, name):
    tools("javac", ANNOTATIONS)
    # What sends nulls, jackson-databind-nullable, isn't in Debian; nor is a part of Jackson, which
    # the generator brings.
    options = "--library native --additional-properties openApiNullable=false".split()
    sources = [*generate(name, "java", *options).glob("src/main/**/*.java")]
    packages = Path(importlib.util.find_spec("openapi_generator_cli").origin).parent
    libraries = f"{packages / 'openapi-generator.jar'}:{ANNOTATIONS}"
    program = CLIENTS / "java" / f"{name.capitalize()}.java"
    options = f"-nowarn -encoding utf-8 -d classes -cp {libraries}".split()
    run("javac", *options, *sources, program, cwd=tmp_path)
    options = ["-Dfile.encoding=utf-8", "-cp", f"classes:{libraries}"]
    check(name, "java", *options, program.stem, cwd=tmp_path, unlinked=f"{LINK}2")
