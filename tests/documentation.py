"""The documentation for users: README.md and the pages in docs/."""

import re
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(CHECKOUT).as_posix(): path.read_text("utf-8")
    for path in [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
}
TEXT = "\n".join(PAGES.values())


def blocks(language: str, text: str = TEXT) -> list[str]:
    """Return the code blocks in this language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)
