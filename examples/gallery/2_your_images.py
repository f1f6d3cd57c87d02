"""
Your images
===========

A folder of images is a stream: a class is a folder. This script draws its own images, learns four
classes in two tasks, then adds a fifth class from its images alone.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw

from edgecl import learn_folder, learn_stream, load_backbone, load_stream, new_learner

scratch = tempfile.TemporaryDirectory()
work = Path(scratch.name)

# %%
# Folders
# -------
#
# Five kinds of parts, drawn in varying place, size, turn and grey: `images/train/CLASS/*.png` and
# `images/test/CLASS/*.png`. Replace this part by your own folders.

CORNERS = {"washer": 40, "triangle-plate": 3, "square-plate": 4, "hex-nut": 6, "pin": 2}


def draw(kind: str, *seed: int) -> Image.Image:
    """Draw a part on a noisy ground; all but a pin have a hole."""
    chance = np.random.default_rng([list(CORNERS).index(kind), *seed])
    noise = chance.normal(205, 6, (96, 96, 3)).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(noise)
    pen = ImageDraw.Draw(image)
    x, y = chance.uniform(42, 54, size=2)
    radius, turn = chance.uniform(26, 36), chance.uniform(0, 360)
    metal = (int(chance.uniform(70, 120)),) * 3
    if kind == "pin":
        end = radius * np.array([np.cos(turn), np.sin(turn)])
        pen.line((x - end[0], y - end[1], x + end[0], y + end[1]), fill=metal, width=12)
    else:
        pen.regular_polygon((x, y, radius), CORNERS[kind], rotation=turn, fill=metal)
        pen.regular_polygon((x, y, 0.3 * radius), 40, fill=(205, 205, 205))
    return image


def write(root: Path, kinds: list[str], count: int, seed: int) -> None:
    """Write `count` images of each kind into folders."""
    for kind in kinds:
        (root / kind).mkdir(parents=True)
        for index in range(count):
            draw(kind, seed, index).save(root / kind / f"{index:03d}.png")


first, later = list(CORNERS)[:4], list(CORNERS)[4:]
write(work / "images" / "train", first, count=12, seed=1)
write(work / "images" / "test", first, count=6, seed=2)
write(work / "new-images", later, count=12, seed=1)
write(work / "new-tests", later, count=6, seed=2)

figure, axes = plt.subplots(1, 5, figsize=(10, 2.4))
for axis, kind in zip(axes, CORNERS, strict=True):
    axis.imshow(draw(kind, 1, 0))
    axis.set_title(kind, fontsize=9)
    axis.set_axis_off()
figure.tight_layout()

# %%
# The stream
# ----------
#
# `increment` is the number of classes per task. The seed decides which classes come first.

stream = load_stream(str(work / "images"), increment=2)
for task in stream.tasks:
    print(f"{', '.join(task.classes)}: {len(task.train)} training and {len(task.test)} test images")

# %%
# Learn
# -----

backbone = load_backbone("vit-s14", image_size=56)
learner = new_learner(work / "run", "simplecil", backbone, stream)
metrics = learn_stream(learner, stream)
print(f"accuracy over {len(stream.classes)} classes: {metrics.a_last:.0%}")

# %%
# Add a class
# -----------
#
# `learn_folder` learns one more task from `FOLDER/CLASS/*`. The learner needs none of the former
# images. What it learned is a row per class.

record = learn_folder(learner, work / "new-images")
print(f"task {record.task + 1}: {', '.join(record.classes)}, {record.train_images} images")

# %%
# What it knows now
# -----------------
#
# All test images, old and new, classified by the learner. A device returns the same labels: see
# the first example for the export.

names = [*stream.classes, *record.classes]
counts = np.zeros((len(names), len(names)), int)
for kind in names:
    root = work / ("new-tests" if kind in later else "images/test")
    images = [backbone.preprocess(Image.open(path)) for path in sorted((root / kind).iterdir())]
    for row in learner.predict(np.stack(images)).scores.argmax(dim=-1).tolist():
        counts[names.index(kind), row] += 1

figure, axis = plt.subplots(figsize=(5, 4.4))
axis.imshow(counts, cmap="Blues")
for (row, column), count in np.ndenumerate(counts):
    colour = "white" if count > 3 else "black"
    axis.text(column, row, count or "", ha="center", va="center", color=colour)
axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
axis.set_yticks(range(len(names)), names)
axis.set(xlabel="label that was returned", ylabel="class of the image")
figure.tight_layout()
print(f"accuracy over {len(names)} classes: {counts.trace() / counts.sum():.0%}")

scratch.cleanup()
