"""make release: what it rejects, and reproducible archives.

tests/release.py builds a whole release.
"""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from conftest import CHECKOUT, tools
from packaging.requirements import Requirement

sys.path.append(str(CHECKOUT / "release"))
import archives

AUTHOR = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
EPOCH = 1_800_000_000  # 2027-01-15 08:00:00 UTC


@pytest.fixture
def checkout(tmp_path):
    """A git checkout with everything that decides whether a release is possible."""
    tools("git")
    shutil.copytree(CHECKOUT / "release", tmp_path / "release")
    (tmp_path / ".gitignore").write_text("__pycache__\ndist\n")
    (tmp_path / "fense_admin.py").write_text('__version__ = "7.8.9"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [7.8.9] - 2027-01-15\n")
    commit(tmp_path, ["init", "-q"])
    return tmp_path


def commit(folder, *before):
    for command in [*before, ["add", "-A"], ["commit", "-qm", "x"]]:
        subprocess.run(["git", *AUTHOR, *command], cwd=folder, check=True, timeout=30)


def change(name, text):
    return lambda folder: (folder / name).write_text(text)


def change_and_commit(name, text):
    def prepare(folder):
        (folder / name).write_text(text)
        commit(folder)

    return prepare


def tag(folder):
    subprocess.run(["git", "tag", "v7.8.9"], cwd=folder, check=True, timeout=30)


NO_ENTRY = "CHANGELOG.md has no entry '## [7.8.9] - YYYY-MM-DD': write it"


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (change("fense_admin.py", '__version__ = "7.8.9"  # better\n'), "fense_admin.py is not committed: commit, stash or remove it"),
        (change("new file.py", ""), "new file.py is not committed: commit, stash or remove it"),
        (change_and_commit("CHANGELOG.md", "## [7.8.8] - 2027-01-15\n"), NO_ENTRY),
        (change_and_commit("CHANGELOG.md", "## [7.8.9] - unreleased\n"), NO_ENTRY),
        (change_and_commit("CHANGELOG.md", "## [7x8.9] - 2027-01-15\n"), NO_ENTRY),
        (tag, "the tag v7.8.9 exists: raise __version__ in fense_admin.py"),
        (lambda folder: (folder / ".git").rename(folder / "git"), "this is not a git checkout: run make release in a clone"),
    ],
)  # fmt: skip
def test_an_unready_tree_is_not_released(checkout, prepare, message):
    prepare(checkout)
    (checkout / "dist").mkdir()
    (checkout / "dist" / "of-before").touch()
    command = [sys.executable, "-B", checkout / "release" / "release.py"]
    ended = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", f"release: {message}\n")
    assert [it.name for it in (checkout / "dist").iterdir()] == ["of-before"]


def test_zip_archives_have_the_same_bytes(tmp_path, monkeypatch):
    files = {"b/b.py": b"bb" * 999, "a.py": b"a"}
    archives.write_zip(tmp_path / "one", files, EPOCH, b"#!start\n")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    archives.write_zip(tmp_path / "two", dict(sorted(files.items())), EPOCH, b"#!start\n")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").read_bytes().startswith(b"#!start\n")
    assert archives.read_zip(tmp_path / "one") == files
    with zipfile.ZipFile(tmp_path / "one") as archive:
        assert {it.date_time for it in archive.infolist()} == {(2027, 1, 15, 8, 0, 0)}


@pytest.mark.needs("modes of files")
def test_tar_archives_have_the_same_bytes(tmp_path):
    made = []
    for name, names, mode in (("one", "ab", 0o600), ("two", "ba", 0o664)):
        folder = tmp_path / name
        folder.mkdir()
        with tarfile.open(folder / "it.tar.gz", "w:gz") as archive:
            for it in names:
                (folder / it).write_text(it)
                (folder / it).chmod(mode | (0o100 if it == "a" else 0))
                archive.add(folder / it, it)
        archives.rewrite_tar(folder / "it.tar.gz", EPOCH)
        made.append((folder / "it.tar.gz").read_bytes())
    assert made[0] == made[1]
    with tarfile.open(tmp_path / "one" / "it.tar.gz") as archive:
        assert [(it.name, it.mode, it.mtime, it.uid) for it in archive] == [
            ("a", 0o755, EPOCH, 0),
            ("b", 0o644, EPOCH, 0),
        ]
        assert archive.extractfile("b").read() == b"b"


def requirements(text):
    return {it.name: it for it in map(Requirement, re.findall('"([a-z][a-z0-9]+[>\\[].*?)"', text))}


def test_the_libraries_of_a_release_are_those_that_the_package_allows():
    text = (CHECKOUT / "pyproject.toml").read_text("utf-8")
    allowed = requirements(re.search(r"^dependencies = (.*)$", text, re.M)[1])
    driver = requirements(re.search(r"^postgresql = (.*)$", text, re.M)[1])
    for names, allowed_there in (("libraries", allowed), ("postgresql", driver)):
        listed = (CHECKOUT / "release" / f"{names}.txt").read_text()
        pinned = dict(re.findall(r"^([a-z-]+)==([0-9.]+)", listed, re.M))
        assert pinned.keys() >= allowed_there.keys()
        for name, requirement in allowed_there.items():
            assert requirement.specifier.contains(pinned[name]), name
    assert pinned.keys() >= {"psycopg-binary"}
