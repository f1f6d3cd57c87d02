"""A real browser without a screen, whose camera shows a file."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BROWSERS = ("chromium", "google-chrome", "chromium-browser")
FAR = "camera.example"  # a name that leads to this machine, from which a browser gives no camera
_TO_YUV = np.array([  # ITU-R BT.601, of 0 to 1
    [65.481, 128.553, 24.966],
    [-37.797, -74.203, 112.0],
    [112.0, -93.786, -18.214],
])


def find_browser() -> tuple[str, str]:
    """Return the paths of a browser and its driver; the test is skipped where there are none."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    folder = os.environ.get("CHROMEWEBDRIVER")
    driver = shutil.which("chromedriver", path=folder) or shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no browser is installed: `apt-get install chromium chromium-driver`")
    return browser, driver


def film(path: Path, pictures: np.ndarray, rate: int = 10) -> Path:
    """Write a film for a browser's camera, in YUV4MPEG2 with half as many colours as pixels.

    Args:
        path: The file.
        pictures: uint8 [n, h, w, 3], of even sizes.
        rate: Pictures a second.
    """
    _, height, width, _ = pictures.shape
    with path.open("wb") as file:
        file.write(b"YUV4MPEG2 W%d H%d F%d:1 Ip A1:1 C420mpeg2\n" % (width, height, rate))
        for each in pictures:
            planes = (each / 255) @ _TO_YUV.T + [16, 128, 128]  # [h, w, 3]
            halves = planes.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
            file.write(b"FRAME\n")
            for plane in (planes[..., 0], halves[..., 1], halves[..., 2]):
                file.write(plane.round().astype(np.uint8).tobytes())
    return path


@contextmanager
def browsing(camera: Path) -> Iterator[Any]:
    """Drive a browser that reaches nothing but this machine."""
    webdriver = pytest.importorskip("selenium.webdriver")
    service = pytest.importorskip("selenium.webdriver.chrome.service")
    browser, driver = find_browser()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for word in (
        "headless=new",
        "no-sandbox",  # which a process of root does not get
        "disable-dev-shm-usage",
        "disable-gpu",
        "disable-background-networking",
        "disable-component-update",
        "disable-extensions",
        "no-first-run",
        "window-size=1280,1000",
        f"host-resolver-rules=MAP {FAR} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "use-fake-ui-for-media-stream",
        "use-fake-device-for-media-stream",
        f"use-file-for-fake-video-capture={camera}",
    ):
        options.add_argument(f"--{word}")
    driven = webdriver.Chrome(options, service.Service(driver))
    try:
        yield driven
    finally:
        driven.quit()
