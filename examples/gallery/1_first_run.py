"""
A first run
===========

A workstation learns two tasks, exports the backbone once and a pack per task, and a device without
PyTorch classifies. Then a third task arrives, and the running classifier takes it.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from edgecl import learn_stream, load_backbone, load_stream, new_learner
from edgecl_deploy import Classifier
from edgecl_export import export_bundle, export_packs, export_release

scratch = tempfile.TemporaryDirectory()
work = Path(scratch.name)


def size(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# %%
# The backbone and the stream
# ---------------------------
#
# The backbone is a ViT-S with frozen weights. Images of 56 pixels instead of 112 make this page
# fast. The stream is built in: emoji in six art styles, ten new classes per task, and test images
# in a seventh style.

backbone = load_backbone("vit-s14", image_size=56)
stream = load_stream("emoji-demo", tasks=3)

for task in stream.tasks:
    print(f"{task.name}: {len(task.train)} training images of {', '.join(task.classes[:4])}, ...")

# %%
# One training image of every class, a row per task:

figure, axes = plt.subplots(3, 10, figsize=(10, 3.2))
for row, task in zip(axes, stream.tasks, strict=True):
    labels = task.train.labels
    for axis, label in zip(row, sorted(set(labels)), strict=True):
        axis.imshow(task.train.image(labels.index(label)))
        axis.set_axis_off()
figure.tight_layout()

# %%
# Learn
# -----
#
# The method is LayUP without its optional adapters: ridge regression on the features of the last
# six blocks. It needs no gradient and keeps no image. A run folder holds what was learned.

learner = new_learner(work / "run", "layup", backbone, stream, config={"first_session": "none"})
two_tasks = load_stream("emoji-demo", tasks=2)
metrics = learn_stream(learner, two_tasks)
print(f"accuracy over both tasks: {metrics.a_last:.0%}")

# %%
# Export
# ------
#
# The bundle (backbone and program, in ONNX) is exported once. A pack holds what one task learned,
# and a release lists packs that belong together.

export_bundle(learner, work / "bundle")
export_packs(learner, work / "packs")
export_release(work / "packs", work / "release-2", work / "bundle")

# %%
# Classify on the device
# ----------------------
#
# `edgecl_deploy` does not import PyTorch. An image of the third task gets the nearest known class,
# and a low score.

device = Classifier.open(work / "bundle", work / "release-2")
later = stream.tasks[2]
image = later.test.image(0)
before = device.predict([image])[0]
print(f"release {before.release}: {before.label!r}, score {before.score:.2f}")

# %%
# Add a task
# ----------
#
# `learn_stream` goes on with the tasks that the run does not hold yet. The bundle stays as it is.
# `swap` verifies and tests the new release, then replaces one reference.

metrics = learn_stream(learner, stream)
former = size(work / "packs")
export_packs(learner, work / "packs")
added = size(work / "packs") - former
export_release(work / "packs", work / "release-3", work / "bundle")
device.swap(work / "release-3")
after = device.predict([image])[0]
print(f"release {after.release}: {after.label!r}, score {after.score:.2f}")

# %%
# All test images of the third task, with the label that the device returns:

answers = device.predict([later.test.image(index) for index in range(len(later.test))])
figure, axes = plt.subplots(2, 5, figsize=(10, 4.4))
for index, (axis, answer) in enumerate(zip(axes.flat, answers, strict=True)):
    right = answer.label == stream.classes[later.test.labels[index]]
    axis.imshow(later.test.image(index))
    axis.set_title(answer.label, fontsize=9, color="green" if right else "red")
    axis.set_axis_off()
figure.tight_layout()

# %%
# The accuracy of each task after each task, and the bytes of the bundle and of the third pack:

for row, accuracies in enumerate(metrics.matrix):
    print(f"after task {row + 1}: " + "  ".join(f"{value:.0%}" for value in accuracies))
print(f"bundle, once: {size(work / 'bundle') / 1e6:.0f} MB")
print(f"pack of the third task: {added / 1e3:.0f} KB")

scratch.cleanup()
