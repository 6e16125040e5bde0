"""Imports run downward only, in the order of the map in CONTRIBUTING.md; no module grows too long."""

import ast
import re

import pytest
from conftest import CHECKOUT

FILES = [
    file.relative_to(CHECKOUT).as_posix()
    for pattern in ("*.py", "comparing/*.py", "serving/**/*.py", "standin/**/*.py")
    for file in sorted(CHECKOUT.glob(pattern))
    if file.name != "setup.py"
]
CONTRIBUTING = (CHECKOUT / "CONTRIBUTING.md").read_text("utf-8")
MODULE_MAP = re.search("## The map of modules\n.*?```\n(.*?)```", CONTRIBUTING, re.S)[1]
MAP = [line.split()[0] for line in MODULE_MAP.splitlines() if line]  # top to bottom
MAX_LINES = 500
LONGER = {}  # a file: why it is longer


def module(file):
    """The name under which a file is imported: fense_admin.standin for standin/__init__.py."""
    name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return name if name in ("fense_admin", "pytest_fense_admin") else f"fense_admin.{name}"


MODULES = {module(file): file for file in FILES}


def run_when_imported(node):
    """The nodes of a syntax tree, without what only type checkers or a script run."""
    yield node
    if isinstance(node, ast.If) and re.match("TYPE_CHECKING|__name__", ast.unparse(node.test)):
        children = node.orelse
    else:
        children = ast.iter_child_nodes(node)
    for child in children:
        yield from run_when_imported(child)


def imports(source):
    """Return the files of the package that a source imports, anywhere in it."""
    found = set()
    for node in run_when_imported(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in MODULES else node.module)
    return {MODULES[name] for name in found if name in MODULES}


def test_the_map_has_each_module_once():
    assert sorted(MAP) == sorted(FILES)


@pytest.mark.parametrize("file", FILES)
def test_a_module_imports_only_from_below(file):
    source = (CHECKOUT / file).read_text("utf-8")
    above = MAP[: MAP.index(file) + 1]
    upward = [f"{file} imports {other}" for other in sorted(imports(source)) if other in above]
    assert upward == []


def test_every_kind_of_import_is_seen():
    for line in (
        "from fense_admin import models",
        "from fense_admin.models import Database",
        "import fense_admin.models as m",
        "def f():\n    from fense_admin import models",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import fense_admin.models",
    ):
        assert imports(line) == {"models.py"}, line
    assert imports("from fense_admin import create_app") == {"fense_admin.py"}
    assert imports("from fense_admin.standin import page") == {"standin/page/__init__.py"}
    assert imports("from fense_admin.standin import StandIn") == {"standin/__init__.py"}
    assert imports("import json\nfrom peewee import Model") == set()
    for condition in ("TYPE_CHECKING", "__name__ == '__main__'"):
        assert imports(f"if {condition}:\n    from fense_admin import models") == set()


def test_no_module_is_too_long():
    lengths = {file: (CHECKOUT / file).read_text("utf-8").count("\n") for file in FILES}
    assert {file for file, length in lengths.items() if length > MAX_LINES} == LONGER.keys()


# What a system may lack, or is called. `systems.py` alone may ask.
OF_A_SYSTEM = re.compile(
    r"sys\.platform|os\.(?:name|uname)\b|\bplatform\.system|^import (?:select|fcntl|msvcrt)\b"
    r"|(?:has|get)attr\((?:os|select|signal|socket|sys|time)\b|signal\.SIG(?!INT|TERM|_|nals)"
    r"|MSG_DONTWAIT|register_at_fork|clock_gettime",
    re.MULTILINE,
)


def test_no_module_but_systems_names_a_system():
    found = {file: OF_A_SYSTEM.findall((CHECKOUT / file).read_text("utf-8")) for file in FILES}
    assert found.pop("systems.py")
    assert {file: names for file, names in found.items() if names} == {}
