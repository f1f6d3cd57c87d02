"""
A device that follows a channel
===============================

A channel is a folder of signed plain files, into which a workstation publishes releases. A device
keeps a store. It takes a release from the channel, tests it, and serves it while requests go on.
One command goes back to the release before.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt

from edgecl import learn_stream, load_backbone, load_stream, new_learner
from edgecl_deploy import Classifier
from edgecl_export import export_bundle, export_packs, export_release
from edgecl_export.channel import Repository

scratch = tempfile.TemporaryDirectory()
work = Path(scratch.name)

# %%
# Two releases
# ------------
#
# The workstation learns two tasks and exports a release after each. Six of eleven blocks and images
# of 56 pixels keep this page fast; they cost accuracy.

backbone = load_backbone("vit-s14", image_size=56, depth=6)
stream = load_stream("emoji-demo", tasks=2)
learner = new_learner(work / "run", "simplecil", backbone, stream)
metrics = learn_stream(learner, stream)
print(f"accuracy after both tasks: {metrics.a_last:.0%}")

export_bundle(learner, work / "bundle")
export_packs(learner, work / "packs")
export_release(work / "packs", work / "release-1", work / "bundle", tasks=1)
export_release(work / "packs", work / "release-2", work / "bundle")

# %%
# A channel
# ---------
#
# `Repository.create` makes the keys and an empty site. A site for development has one key without a
# passphrase; :doc:`/docs/operate` describes keys for real devices. `publish` tests the release
# first.

repository = Repository.create(work / "site", work / "keys", development=True)
repository.publish(work / "release-1", work / "bundle", channel="stable")
for path in sorted((work / "site").rglob("*.json")):
    print(path.relative_to(work / "site").as_posix()[:72])

# %%
# A device
# --------
#
# A device is operated with the command `edgecl-device`. Here the site is a folder; a web address
# works the same way. The store trusts the first root key.


def device(*words: object) -> None:
    """Run `edgecl-device` and print what it answers."""
    program = Path(sys.executable).with_name("edgecl-device")
    done = subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=True)
    print(done.stdout.replace(f"{work}/", "").strip())


store = work / "store"
device("init", store, "--bundle", work / "bundle", "--root", repository.root_file,
       "--channel", work / "site", "--trial-seconds", 1)  # fmt: skip
device("update", store)

# %%
# The application
# ---------------
#
# The application opens the store once. It follows the store by itself: an update needs no restart.
# Release 1 does not know the classes of the second task, so it labels none of their images right.


def ask(application: Classifier) -> None:
    """Classify the test images of the second task, and print how many labels are right."""
    answers = application.predict([tests.image(index) for index in range(len(tests))])
    pairs = zip(answers, tests.labels, strict=True)
    right = sum(answer.label == stream.classes[label] for answer, label in pairs)
    print(f"release {answers[0].release}: {right} of {len(answers)} labels are right")


tests = stream.tasks[1].test
application = Classifier.open(store)
ask(application)

# %%
# The next release
# ----------------
#
# The workstation publishes, the device updates. Meanwhile the application answers one request after
# the other. The update ends when the application has served the new release for the trial time.

repository.publish(work / "release-2", work / "bundle", channel="stable")
program = Path(sys.executable).with_name("edgecl-device")
update = subprocess.Popen([program, "update", store], stdout=subprocess.PIPE, text=True)
began, times, releases = time.perf_counter(), [], []
while update.poll() is None:
    answer = application.predict([tests.image(0)])[0]
    times.append(time.perf_counter() - began)
    releases.append(answer.release)
    time.sleep(0.02)
print(update.communicate()[0].strip())
ask(application)

# %%
# Which release answered each request:

figure, axis = plt.subplots(figsize=(8, 2.2))
axis.plot(times, releases, ".", markersize=4)
axis.set(xlabel="seconds since the update began", ylabel="release", yticks=[1, 2], ylim=(0.7, 2.3))
figure.tight_layout()

# %%
# Go back
# -------
#
# `rollback` returns to the release before, and the device does not take the newer one again by
# itself. `history` lists what happened.

device("rollback", store)
time.sleep(1)  # the application looks at its store five times a second
ask(application)
device("history", store)

application.close()
scratch.cleanup()
