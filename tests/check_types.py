"""Check the types of what users get: the installed package, its plugin, and all examples in Python.

`make lint` runs this: `mypy --strict` and pyright must report nothing. (basedpyright is pyright in a
wheel that brings its own Node.)
"""

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from documentation import CHECKOUT, blocks

PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
INSTALL = ["install", "--no-deps", "--no-build-isolation", "--no-compile", "--target"]
MYPY = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary"]
PYRIGHT = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable]

PLATFORMS = {
    "linux": "Linux",
    "darwin": "Darwin",
    "win32": "Windows",
}  # as mypy and pyright name them

# The code under test of the documents' first example.
MY_APP = """
import urllib.request

def stop_billing(url: str, key: str, account_id: int) -> None:
    headers = {"x-api-key": key, "Content-Type": "application/json"}
    body = b'{"suppress_billing": true}'
    request = urllib.request.Request(f"{url}/accounts/{account_id}", body, headers)
    urllib.request.urlopen(request, timeout=10).close()
"""


class Installed:
    """The package, installed into a folder from a checkout."""

    def __init__(self, folder: Path, checkout: Path) -> None:
        self.folder, self.packages = folder, folder / "packages"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(checkout / "build" / "lib", ignore_errors=True)  # of a build before
        subprocess.run([*PIP, *INSTALL, self.packages, checkout], check=True)
        self.parts = [self.packages / "fense_admin", self.packages / "pytest_fense_admin.py"]
        # The user's Python: it has this package, and all that ours has.
        venv.create(folder / "venv", with_pip=False)
        (site_packages,) = folder.glob("venv/lib/python*/site-packages")
        (site_packages / "lent.pth").write_text(
            f"{self.packages}\n{sysconfig.get_path('purelib')}\n"
        )

    def mypy(self, *files: Path) -> list[str]:
        """Return what `mypy --strict` reports about a user's files."""
        return self._run([*MYPY, "--config-file=", "--python-executable", "venv/bin/python"], files)

    def mypy_itself(self, platform: str) -> list[str]:
        """Return what `mypy --strict` reports about the package and its plugin, on one of `PLATFORMS`."""
        config = ["--config-file", CHECKOUT / "pyproject.toml"]
        return self._run([*MYPY, *config, "--platform", platform], self.parts)

    def pyright(self, *files: Path, platform: str = "linux") -> list[str]:
        """Return what pyright reports about a user's files, or about the package and its plugin."""
        config = {
            "typeCheckingMode": "standard",
            "extraPaths": [str(self.packages)],
            "pythonPlatform": PLATFORMS[platform],
        }
        (self.folder / "pyrightconfig.json").write_text(json.dumps(config))
        return pyright_errors("\n".join(self._run(PYRIGHT, files or self.parts)))

    def _run(self, command: list[str], files: list[Path]) -> list[str]:
        """Run a type checker in the folder and return the lines of its output."""
        ended = subprocess.run(
            [*command, *files], cwd=self.folder, capture_output=True, text=True, timeout=300
        )
        assert not ended.stderr or ended.returncode <= 1, ended.stderr
        return ended.stdout.splitlines()


def pyright_errors(output: str) -> list[str]:
    """The errors that pyright reports as JSON, in the form of mypy's."""
    return [
        f"{it['file']}:{it['range']['start']['line'] + 1}: {it['message']} [{it.get('rule')}]"
        for it in json.loads(output)["generalDiagnostics"]
        if it["severity"] == "error"
    ]


def examples(folder: Path) -> list[Path]:
    """All examples in Python: the files, and the documents' blocks, each written to a file."""
    folder.mkdir(exist_ok=True)
    (folder / "my_app.py").write_text(MY_APP, "utf-8")
    written = CHECKOUT / "examples"
    files = sorted([*written.glob("*.py"), *written.glob("testcontainers/*.py")])
    for number, block in enumerate(blocks("python"), 1):
        files.append(folder / f"document_{number}.py")
        files[-1].write_text(block, "utf-8")
    return files


def main() -> int:
    installed = Installed(CHECKOUT / "build" / "types", CHECKOUT)
    files = examples(installed.folder / "examples")
    reports = [*installed.mypy(*files), *installed.pyright(*files)]
    for platform in PLATFORMS:
        reports += [*installed.mypy_itself(platform), *installed.pyright(platform=platform)]
    print("\n".join(reports))
    return 1 if reports else 0


if __name__ == "__main__":
    sys.exit(main())
