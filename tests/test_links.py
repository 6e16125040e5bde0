"""Every relative link in every document leads to a file, and every anchor to a heading."""

import os
import re
import urllib.parse
from pathlib import Path

import pytest
from conftest import CHECKOUT


def documents(folder):
    """Yield every Markdown file of the checkout, without what was installed or built."""
    for path, folders, files in os.walk(folder):
        folders[:] = [it for it in folders if it[0] != "." and it not in ("build", "node_modules")]
        yield from (Path(path, it) for it in files if it.endswith(".md"))


def without_code(text):
    text = re.sub(r"^( *)(```+|~~~+).*?^\1\2 *$", "", text, flags=re.M | re.S)
    return re.sub(r"<!--.*?-->", "", re.sub(r"(`+)[^`].*?\1", "`", text), flags=re.S)


def targets(text):
    """The targets of all links and images, whether written in Markdown or in HTML."""
    text = without_code(text)
    inline = re.findall(r"\]\(\s*<?([^\s)>]+)", text)
    references = re.findall(r"^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)", text, re.M)
    return [*inline, *references, *re.findall(r"\b(?:href|src|srcset)=\"([^\"\s]+)", text)]


def anchors(text):
    """The anchors of a document, named as GitHub names them."""
    text = re.sub(r"^( *)(```+|~~~+).*?^\1\2 *$", "", text, flags=re.M | re.S)
    found = {}
    for title in re.findall(r"^ {0,3}#{1,6} +(.+?)(?: +#+)? *$", text, re.M):
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", title)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        same = sum(1 for it in found.values() if it == name)
        found[f"{name}-{same}" if same else name] = name
    return {*found, *re.findall(r"<\w+ [^>]*?\b(?:id|name)=\"([^\"]+)\"", text)}


def is_file(path):
    """Return whether the path exists with exactly this case, which some systems ignore."""
    return path == CHECKOUT or (path.exists() and path.name in os.listdir(path.parent))


def broken_links(document):
    """Return the broken relative links of a document."""
    text = document.read_text("utf-8")
    for target in targets(text):
        if re.match("[a-z][a-z0-9+.-]*:|//", target):
            continue  # an absolute URL
        name, _, anchor = target.partition("#")
        path = Path(os.path.normpath(document.parent / urllib.parse.unquote(name)))
        path = path if name else document
        if not path.is_relative_to(CHECKOUT) or not is_file(path):
            yield f"{target}: there is no such file"
        elif anchor and path.suffix == ".md" and anchor not in anchors(path.read_text("utf-8")):
            yield f"{target}: {path.name} has no such heading"


DOCUMENTS = sorted(path.relative_to(CHECKOUT).as_posix() for path in documents(CHECKOUT))


def test_all_documents_are_found():
    assert {"README.md", "CHANGELOG.md", "deploy/README.md", "docs/windows-and-macos.md"} <= {
        *DOCUMENTS
    }


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_relative_link_leads_somewhere(document):
    assert list(broken_links(CHECKOUT / document)) == []


ODD = """
# Title

## Run it: `exec -- npm test` (in CI)

## A [link](https://example.com) & more

## Again
## Again ##

<a id="by-hand"></a>

```markdown
[in code](nowhere.md)
## Not a heading
```
[one](#run-it-exec----npm-test-in-ci) [two](#a-link--more) [three](#again) [four](#again-1)
[five](#by-hand) [six](odd.md#title) [seven](https://example.com/#nothing), `[code](nowhere.md)`
[eight](#not-a-heading) ![nine](Odd.md) [ten](../..) [eleven][there] <img src="nothing.png">
[twelve](odd.md#nothing)

[there]: missing.md
"""


def test_broken_links_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr("test_links.CHECKOUT", tmp_path)
    (tmp_path / "odd.md").write_text(ODD)
    assert [line.partition(":")[0] for line in broken_links(tmp_path / "odd.md")] == [
        "#not-a-heading",
        "Odd.md",
        "../..",
        "odd.md#nothing",
        "missing.md",
        "nothing.png",
    ]
