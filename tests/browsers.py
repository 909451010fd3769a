"""A real browser for the tests of pages; the fixture ``browser`` in conftest.py starts it."""

import json
from collections.abc import Iterator
from pathlib import Path

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,1000",
)


def start(profile: Path) -> Iterator:
    """Yield Chromium's driver, which notes what the console says and what is requested."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


def opened(browser, path: Path) -> tuple[list[str], list[str]]:
    """Open a page; return what the console says and every address that was requested."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(path.as_uri())
    # Anything that starts late (an image that fails, a request of a script) has its turn.
    browser.execute_async_script("setTimeout(arguments[0], 500)")
    console = [f"{entry['level']}: {entry['message']}" for entry in browser.get_log("browser")]
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    requested = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
        # The browser's own first page, which on a busy machine is still loading.
        and not event["params"]["request"]["url"].startswith("chrome://")
    ]
    listed = browser.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    return console, requested + listed


def count(browser, selector: str) -> int:
    return browser.execute_script("return document.querySelectorAll(arguments[0]).length", selector)
