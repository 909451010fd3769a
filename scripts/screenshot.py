"""Take the picture of a report for the README: python scripts/screenshot.py REPORT PICTURE."""

from __future__ import annotations

import argparse
import base64
import math
import tempfile
from pathlib import Path

from selenium import webdriver

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def main() -> None:
    """Open the report in headless Chromium and write a PNG of its top."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1120, help="in CSS pixels")
    parser.add_argument("--whole", action="store_true", help="not only down to the first plot")
    parser.add_argument("--scale", type=float, default=1.5, help="picture pixels per CSS pixel")
    parser.add_argument("--dark", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
        try:
            png = capture(driver, arguments)
        finally:
            driver.quit()
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    arguments.picture.write_bytes(png)


def capture(driver: webdriver.Chrome, arguments: argparse.Namespace) -> bytes:
    """Return the PNG of the page's top, or of all of it."""
    size = {"width": arguments.width, "deviceScaleFactor": arguments.scale, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size | {"height": 900})
    scheme = {"name": "prefers-color-scheme", "value": "dark" if arguments.dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    driver.get(arguments.report.resolve().as_uri())
    last = "html" if arguments.whole else ".plot"
    bottom = "return document.querySelector(arguments[0]).getBoundingClientRect().bottom"
    height = math.ceil(driver.execute_script(bottom, last)) + 16
    clip = {"x": 0, "y": 0, "width": arguments.width, "height": height, "scale": 1}
    shot = driver.execute_cdp_cmd(
        "Page.captureScreenshot", {"format": "png", "clip": clip, "captureBeyondViewport": True}
    )
    return base64.b64decode(shot["data"])


if __name__ == "__main__":
    main()
