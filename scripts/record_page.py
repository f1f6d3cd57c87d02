"""Take the picture of the server's page (docs/pictures/page.png), with a real model and browser.

The workstation learns 50 emoji, a device serves them, and a browser whose camera shows one that the
model never saw teaches it: the picture is taken when the device knows it. It takes a few minutes;
`make record` runs it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from time import monotonic, sleep

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from tests.deploy.support.browsing import browsing, film  # noqa: E402

OUT = ROOT / "docs" / "pictures" / "page.png"
NAME, SEEN = "pineapple", "images/train/task_05/{}/*.png"
COMMANDS = """
edgecl data unpack emoji-demo images
edgecl train simplecil --stream images --tasks 5 --out run
edgecl export bundle run -o bundle
edgecl export pack run -o packs
edgecl export release packs --bundle bundle -o release
"""
SIZE = (640, 480)  # of the film
WINDOW = (1280, 1090)
PATIENCE = 60.0  # seconds


def scene(file: Path) -> np.ndarray:
    """Return an emoji on white paper, as a camera sees it: uint8 [h, w, 3]."""
    paper = Image.new("RGB", SIZE, "white")
    emoji = Image.open(file).convert("RGBA").resize((400, 400), Image.Resampling.LANCZOS)
    paper.paste(emoji, ((SIZE[0] - 400) // 2, (SIZE[1] - 400) // 2), emoji)
    return np.asarray(paper)


def wait(holds: Callable[[], bool], what: str) -> None:
    """Wait until it holds.

    Raises:
        TimeoutError: It does not.
    """
    end = monotonic() + PATIENCE
    while not holds():
        if monotonic() > end:
            raise TimeoutError(f"the page must show {what} within {PATIENCE:g} seconds")
        sleep(0.1)


def photograph(folder: Path) -> bytes:
    """Serve what is in a folder, teach it on the page, and return a picture of that: PNG."""
    pictures = [scene(file) for file in sorted(folder.glob(SEEN.format(NAME)))[:5]]
    device, place = Path(sys.executable).with_name("edgecl-device"), ["--listen", "127.0.0.1:0"]
    with (
        tempfile.TemporaryDirectory() as local,
        subprocess.Popen(
            [device, "serve", "bundle", "release", "--page", "--local", f"{local}/own", *place],
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
        ) as server,
        browsing(film(folder / "camera.y4m", np.stack(pictures), rate=1)) as driver,
    ):
        driver.set_window_size(*WINDOW)
        driver.get(next(server.stdout or iter(())).rpartition(" ")[2].strip())
        shown = {each: driver.find_element("id", each) for each in ("label", "taught", "name")}
        driver.find_element("id", "camera").click()
        wait(lambda: shown["label"].text != "No answer yet", "an answer")
        shown["name"].send_keys(NAME, "\n")
        wait(lambda: "is learned" in shown["taught"].text, "the class")
        wait(lambda: shown["label"].text == NAME, NAME)
        driver.execute_script("document.activeElement.blur()")
        sleep(0.5)
        server.terminate()
        return bytes(driver.get_screenshot_as_png())


def small(png: bytes) -> bytes:
    """Return a picture with as many colours as a page needs."""
    buffer = BytesIO()
    Image.open(BytesIO(png)).convert("RGB").quantize(256).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main() -> None:
    """Run the commands, then take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the commands have run already")
    given = parser.parse_args().folder
    os.environ["no_proxy"] = "127.0.0.1,localhost"
    with tempfile.TemporaryDirectory() as made:
        folder = given or Path(made)
        for line in COMMANDS.strip().splitlines() if given is None else ():
            program, *words = line.split()
            tool = Path(sys.executable).with_name(program)
            subprocess.run([tool, *words], cwd=folder, check=True)
        OUT.write_bytes(small(photograph(folder)))
    print(f"{OUT}: {OUT.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
