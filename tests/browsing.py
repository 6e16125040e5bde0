"""Browser tests of the page: Chromium, driven by playwright."""

import contextlib
import re

import conftest
import pytest

FLAGS = (  # without the rest it looks for Google's hosts
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright  # late: few runs of the tests need it

    (chromium,) = conftest.tools("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def look(browser, fense):
    """Opens views in new windows. At the end, none may have had an error or used another host."""
    origin = fense.standin_url.removesuffix("/_standin")
    with contextlib.ExitStack() as stack:
        wrong = []

        def look(path="", **options):
            context = browser.new_context(**{"viewport": WIDE, "color_scheme": "light"} | options)
            stack.callback(context.close)
            context.set_default_timeout(10_000)
            page = context.new_page()
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on(
                "console", lambda line: wrong.append(line.text) if line.type == "error" else None
            )
            page.on(
                "request",
                lambda sent: (
                    None if sent.url.startswith((origin, "data:")) else wrong.append(sent.url)
                ),
            )
            page.goto(f"{origin}/_standin/{path}")
            return page

        yield look
        refused = re.compile("status of (40|503)")  # a refusal's view, and too many waits
        assert [text for text in wrong if not refused.search(text)] == []
