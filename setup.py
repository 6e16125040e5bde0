"""Packaging: the modules lie flat here and are one package, fense_admin, once installed.

Copied flat into site-packages, models.py would be everybody's `import models`. So the wheel gets
fense_admin.py as fense_admin/__init__.py and its siblings beside it. All else about the
distribution stands in pyproject.toml.
"""

from setuptools import setup
from setuptools.command.build_py import build_py

PACKAGE = "fense_admin"
SIBLINGS = ["cli", "control", "journal", "models", "server", "standin", "state"]
PLUGIN = "pytest_fense_admin"  # beside the package, so that loading it loads nothing else
DATA = ["openapi.json", "schema.sql"]


class BuildPackage(build_py):
    def finalize_options(self):
        super().finalize_options()
        self.packages = [PACKAGE]
        self.package_dir = {PACKAGE: "."}
        self.package_data = {PACKAGE: DATA}

    def find_package_modules(self, package, package_dir):
        modules = [(package, "__init__", f"{PACKAGE}.py")]
        modules += [(package, "__main__", "cli.py")]  # python -m fense_admin
        return modules + [(package, name, f"{name}.py") for name in SIBLINGS]

    def find_modules(self):
        return [("", PLUGIN, f"{PLUGIN}.py")]  # all else that py_modules names is in the package


# py_modules is for `pip install -e`, which links to the file here, itself a package (`__path__`).
setup(cmdclass={"build_py": BuildPackage}, py_modules=[PACKAGE, PLUGIN])
