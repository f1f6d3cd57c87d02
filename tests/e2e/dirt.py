"""A folder of photos as a person has one: two more classes, and what cameras and systems left."""

import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image

from edgecl.streams import load_stream

COUNT = 6  # photos of each class that can be learned
FOUR = ("dog", "Käse", "paw prints", "teddy bear")  # what the emoji are called here


def write_photos(root: Path) -> None:
    """Write ROOT/photos, ROOT/more-photos and ROOT/test-photos."""
    stream = load_stream("emoji-demo", tasks=1)
    task = stream.tasks[0]
    for index, name in enumerate((*FOUR, "new")):
        of_class = [i for i, label in enumerate(task.train.labels) if label == index]
        images = [task.train.image(i) for i in of_class][:COUNT]
        tests = [task.test.image(i) for i, each in enumerate(task.test.labels) if each == index]
        folder = root / ("photos" if name in FOUR else "more-photos") / name
        # What was learned from one computer's archive is tested from another's: NFC and NFD.
        test = root / "test-photos" / unicodedata.normalize("NFD", name)
        for place, some in ((folder, images), (test, tests)):
            place.mkdir(parents=True)
            for number, image in enumerate(some):
                save(image, place, number)
    more = root / "more-photos" / FOUR[0]
    more.mkdir()
    save(task.test.image(task.test.labels.index(0)).rotate(9, fillcolor="white"), more, 0)
    soil(root / "photos")


def save(image: Image.Image, folder: Path, number: int) -> None:
    """Write an image as one of the kinds that people have."""
    kind = number % 4
    if kind == 0:
        image.convert("CMYK").save(folder / f"IMG {number}.JPG", quality=95)
    elif kind == 1:
        exif = Image.Exif()
        exif[0x0112] = 6  # a camera on its side
        image.convert("RGB").rotate(90).save(folder / f"{number}.jpeg", exif=exif, quality=95)
    elif kind == 2:
        image.convert("RGBA").save(folder / f"{number}.png")
    else:
        image.save(folder / f"{number}.webp", lossless=True)


def soil(photos: Path) -> None:
    """Put into a folder what does not belong there, and pictures that cannot be used."""
    first = photos / FOUR[0]
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "notes.txt"):
        (photos / name).write_bytes(b"left here")
    (photos / "__MACOSX" / FOUR[0]).mkdir(parents=True)
    (photos / "__MACOSX" / FOUR[0] / "._0.jpg").write_bytes(b"\0\5\26\7")
    (first / "cut.jpg").write_bytes((first / "IMG 0.JPG").read_bytes()[:500])
    (first / "text.png").write_text("no picture\n", encoding="utf-8")
    (first / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    Image.fromarray(np.full((64, 64, 3), 7, np.uint8)).save(first / "lens cap.png")
    (first / "2019").mkdir()
    (first / "2.png").rename(first / "2019" / "2.png")
