"""Pages in a real browser: Debian's Chromium, through Playwright."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Debian's Chromium, through Playwright."""
    if CHROMIUM is None:
        pytest.skip("no chromium (Debian: chromium) on this machine")
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of ssd-probe[dev]")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        yield started
        started.close()


@pytest.fixture
def visit(browser):
    """Open a page; afterwards nothing was logged, asked of another address or opened."""
    said: list[str] = []
    contexts = []

    def go(path: Path, fragment: str = "", wait: str = ".token", **context):
        contexts.append(browser.new_context(**context))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        address = path.as_uri()

        def asked(url: str) -> None:
            if url != address and not url.startswith("data:"):
                said.append(url)

        page.on("request", lambda r: asked(r.url.split("#")[0]))
        page.goto(address + fragment)
        page.wait_for_selector(wait)
        return page

    yield go
    for context in contexts:
        context.close()
    assert said == []


def serious_faults(page, within: str = "html") -> list[tuple]:
    """What axe-core calls serious or critical; skips where it is not installed."""
    axe = pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python")
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text())
    found = page.evaluate("(within) => axe.run(within)", within)["violations"]
    return [
        (each["id"], each["nodes"][0]["html"][:200], each["nodes"][0]["failureSummary"])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
