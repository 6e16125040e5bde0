"""Make the screenshots of the page for people that stand in this folder: make screenshots.

It serves the demo state on port 8642, sends requests of which some fail, and opens the page in
Chromium: wide and as on a phone, light and dark. Names in all scripts need fonts, such as those of
Debian's fonts-noto-cjk.
"""

from __future__ import annotations

import http.client
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
PORT = 8642
SERVE = [sys.executable, "-m", "fense_admin", "--port", str(PORT), "--seed", "demo"]
KEY = "local-dev-key"
NEW = {"api_key": "merchant-key-7d1e-9f2c", "name": "Acme Ltd", "email": "owner@acme.example"}
MISSPELT = {"api_key": "merchant-key-7d1e-9f2d", "name": "", "emial": "a@acme.example"}
REQUESTS: list[tuple[str, str, Any]] = [
    ("GET", "/accounts/usage?start_date=2026-11-01&end_date=2026-11-30", None),
    ("GET", "/accounts/99", None),
    ("POST", "/accounts", NEW),
    ("POST", "/accounts", NEW),
    ("POST", "/accounts/1", {"suppress_billing": True, "name": "Acme Holdings"}),
    ("GET", "/accounts/usage/1?start_date=2026-11-31", None),
    ("POST", "/_standin/faults", {"status": 503, "method": "POST", "times": 2}),
    ("POST", "/accounts", NEW),
    ("GET", "/acounts/1", None),
    ("DELETE", "/_standin/faults", None),
    ("POST", "/accounts", MISSPELT | {"supress_billing": True}),
    ("GET", "/accounts/1", None),
]
VIEWS = {  # by the name of the file
    "requests": "",
    "request": "page/requests/9",
    "accounts": "page/accounts",
    "account": "page/accounts/1",
    "form": "page/accounts/create",
    "faults": "page/faults",
}
REFUSED = {"name": "", "email": "owner@", "dispute_account_id": "42"}  # typed into the form
PRESETS = ("The next creation fails with 503", "Every read takes 2 s")
LOOKS = [(1280, "light"), (1280, "dark")]
ON_A_PHONE = "request"


def main() -> None:
    with subprocess.Popen(
        [*SERVE, "--database", ":memory:", "--quiet"], stdout=subprocess.PIPE
    ) as service:
        try:
            assert service.stdout is not None
            if not service.stdout.readline():
                sys.exit(f"the service did not start: is port {PORT} free?")
            for method, path, body in REQUESTS:
                send(method, path, body)
            take()
        finally:
            service.terminate()


def send(method: str, path: str, body: Any) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=10)
    headers = {"x-api-key": KEY, "Content-Type": "application/json", "User-Agent": "my-app/1.0"}
    headers |= {"Accept": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    connection.getresponse().read()
    connection.close()


def take() -> None:
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-lcd-text"]
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=options)
        for width, scheme in LOOKS:
            page = browser.new_page(viewport={"width": width, "height": 400}, color_scheme=scheme)
            for name in VIEWS:
                show(page, name)
                save(page.screenshot(full_page=True), f"{name}-{width}-{scheme}.png")
            page.close()
        page = browser.new_page(viewport={"width": 360, "height": 400})
        show(page, ON_A_PHONE)
        save(page.screenshot(full_page=True), f"{ON_A_PHONE}-360-light.png")
        browser.close()


def show(page: Page, name: str) -> None:
    """Open a view; fill in its form, or arm faults, and show what the page says then."""
    page.goto(f"http://127.0.0.1:{PORT}/_standin/{VIEWS[name]}")
    if name == "form":
        for field, text in REFUSED.items():
            page.locator(f"[name={field}]").fill(text)
        page.get_by_role("button", name="Create an account").click()
    if name == "faults":
        send("DELETE", "/_standin/faults", None)
        for preset in PRESETS:
            page.get_by_role("button", name=preset).click()
        page.locator(".done").wait_for()


def save(screenshot: bytes, name: str) -> None:
    """Save it with 128 colours, which are enough for it and take a third of the bytes."""
    image = Image.open(io.BytesIO(screenshot)).convert("RGB")
    image.quantize(128, dither=Image.Dither.NONE).save(HERE / name, optimize=True)


if __name__ == "__main__":
    main()
