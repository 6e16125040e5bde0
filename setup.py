"""Packaging: the modules lie flat here and are one package, fense_admin, once installed.

Copied flat into site-packages, models.py would be everybody's `import models`. So the wheel gets
fense_admin.py as fense_admin/__init__.py, and the other modules beside it. Everything else about
the distribution is in pyproject.toml.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PACKAGE = "fense_admin"
PLUGIN = "pytest_fense_admin"  # beside the package, so that loading it loads nothing else
ALONE = {PACKAGE, PLUGIN, "setup"}
DATA = {
    PACKAGE: ["openapi.json", "FIDELITY.md", "py.typed", "*.sql"],
    f"{PACKAGE}.comparing": [],
    f"{PACKAGE}.serving": [],
    f"{PACKAGE}.standin": ["*.json"],
    f"{PACKAGE}.standin.page": ["*.html", "*.css", "*.js"],
}


class BuildPackage(build_py):
    def finalize_options(self):
        super().finalize_options()
        self.packages = list(DATA)
        self.package_dir = {PACKAGE: "."}
        self.package_data = DATA

    def find_package_modules(self, package, package_dir):
        if package != PACKAGE:
            return super().find_package_modules(package, package_dir)
        modules = [(PACKAGE, "__init__", f"{PACKAGE}.py"), (PACKAGE, "__main__", "cli.py")]
        siblings = {file.stem for file in Path().glob("*.py")} - ALONE
        return modules + [(PACKAGE, name, f"{name}.py") for name in sorted(siblings)]

    def find_modules(self):
        return [("", PLUGIN, f"{PLUGIN}.py")]  # everything else in py_modules is in the package


# py_modules is for `pip install -e`, which links to the file here, itself a package (`__path__`).
setup(cmdclass={"build_py": BuildPackage}, py_modules=[PACKAGE, PLUGIN])
