"""`make fleet-demo`: three devices follow a channel while they answer requests.

A workstation learns `emoji-demo` with SimpleCIL, one task after the other, and publishes a release
after each. `line` and `dock` update over HTTP from one static server, `field` has no network and
is brought a USB folder. In between, a release with wrong canary scores is denied, a release whose
labels are mixed up passes its self-test and is undone on trial, and `dock` loses all its processes
in the middle of an update.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from time_line import Line

from edgecl.backbones import load_backbone
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.cache import cache_dir
from edgecl.learning.learner import Learner
from edgecl.session import learn_task, new_learner
from edgecl.streams import Stream, load_stream
from edgecl_deploy import Classifier, SelfTest, read_release
from edgecl_deploy.files import write_release
from edgecl_deploy.format import digest, parse_pack, read_tensors, write_tensors
from edgecl_deploy.loaded import LoadedRelease
from edgecl_export.bundle import export_program
from edgecl_export.channel import Repository, Server
from edgecl_export.errors import ChannelError
from edgecl_export.pack import export_packs
from edgecl_export.release import export_release

HERE = Path(__file__).parent
PROGRAM = Path(sys.executable).with_name("edgecl-device")
CHANNEL = "stable"
PICTURES = 3  # per task
TRIAL = ("--trial-seconds", "3", "--trial-requests", "3")
WAIT = 60.0  # seconds for a process to do what it must


@dataclass
class Device:
    """One device: a store, an application that answers, an updater that is called."""

    name: str
    folder: Path
    pictures: Path
    line: Line
    lives: int = 0
    app: subprocess.Popen[bytes] | None = None

    @property
    def store(self) -> Path:
        """Its store."""
        return self.folder / "store"

    def provision(self, bundle: Path, root: Path, url: str) -> None:
        """Make its store and start its application."""
        self.folder.mkdir(parents=True)
        command("init", self.store, "--bundle", bundle, "--root", root, "--channel", url,
                "--name", CHANNEL, "--device-id", self.name, *TRIAL)  # fmt: skip
        self.start()

    def start(self) -> None:
        """Start the application."""
        self.lives += 1
        script = HERE / "fleet_device.py"
        counts = self.folder / f"counts-{self.lives}.json"
        self.app = subprocess.Popen([sys.executable, script, self.store, self.pictures, counts])

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End the application."""
        assert self.app is not None
        self.app.send_signal(how)
        self.app.wait(WAIT)

    def update(self, *options: str | Path) -> dict[str, Any]:
        """Run the updater once and tell what came of it."""
        done = command("update", self.store, *options, "--json", check=False)
        result: dict[str, Any] = json.loads(done.stdout)
        self.line.say(self.name, f"{result['outcome']}: {result['reason'][:150]}")
        return result

    def state(self) -> dict[str, Any]:
        """Read where its update stands."""
        try:
            found: dict[str, Any] = json.loads((self.store / "state.json").read_text())
        except FileNotFoundError:
            return {"phase": "idle"}
        return found

    def cut(self, phase: str) -> None:
        """Start an update, and kill every process of the device as soon as it is in a phase."""
        program = [PROGRAM, "update", self.store]
        updater = subprocess.Popen(program, stdout=subprocess.DEVNULL, start_new_session=True)
        wait_until(lambda: self.state()["phase"] == phase or updater.poll() is not None)
        os.killpg(updater.pid, signal.SIGKILL)
        updater.wait(WAIT)
        self.stop(signal.SIGKILL)
        self.line.say(self.name, f"all its processes were killed in phase {self.state()['phase']}")

    def counted(self) -> list[dict[str, Any]]:
        """Read what its application counted, one per life."""
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("counts-*.json"))]


def command(*words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `edgecl-device`."""
    program = [str(PROGRAM), *map(str, words)]
    return subprocess.run(program, capture_output=True, text=True, check=check, timeout=10 * WAIT)


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for something that must come.

    Raises:
        TimeoutError: if it does not.
    """
    end = time.monotonic() + WAIT
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError("a device did not do what it must")
        time.sleep(0.005)


@dataclass
class Workstation:
    """Learns, makes releases, publishes."""

    learner: Learner
    stream: Stream
    out: Path
    repository: Repository
    pictures: Path
    answers: dict[int, dict[str, str | None]] = field(default_factory=dict)

    @property
    def bundle(self) -> Path:
        """The bundle that every device has."""
        return self.out / "bundle"

    def learn(self, index: int, number: int) -> Path:
        """Learn a task and make a release with it."""
        learn_task(self.learner, self.stream.tasks[index], self.stream.classes)
        export_packs(self.learner.run, self.out / "packs")
        release = self.out / "releases" / str(number)
        export_release(self.out / "packs", release, self.bundle, number=number)
        return release

    def publish(self, release: Path) -> None:
        """Publish a release, and note what it says about the pictures."""
        number = read_release(release).release.number
        names = sorted(json.loads((self.pictures / "labels.json").read_text()))
        said = Classifier.open(self.bundle, release).predict([self.pictures / n for n in names])
        self.answers[number] = {n: a.label for n, a in zip(names, said, strict=True)}
        self.repository.publish(release, self.bundle, channel=CHANNEL)

    def wrong_canaries(self, number: int) -> Path:
        """Make a release whose expected scores are not those of its packs."""
        files = read_release(self.out / "releases" / str(number - 1))
        canaries = files.release.canaries
        assert canaries is not None
        scores = read_tensors(files.blobs[canaries.scores])["scores"]
        wrong = write_tensors({"scores": scores + np.float32(0.5)})
        release = replace(
            files.release,
            number=number,
            canaries=replace(canaries, scores=digest(wrong)),
            blobs={**files.release.blobs, digest(wrong): len(wrong)},
        )
        out = self.out / "releases" / f"{number}-wrong-canaries"
        write_release(out, release, files.manifests, {**files.blobs, digest(wrong): wrong})
        return out

    def mixed_labels(self, number: int) -> Path:
        """Make a release whose class names are in the wrong order; its scores are all right."""
        files = read_release(self.out / "releases" / str(number - 1))
        packs = [
            replace(pack, classes=pack.classes[::-1])
            for pack in map(parse_pack, files.manifests.values())
        ]
        manifests = {digest(pack.to_bytes()): pack.to_bytes() for pack in packs}
        release = replace(files.release, number=number, packs=tuple(manifests))
        out = self.out / "releases" / f"{number}-mixed-labels"
        write_release(out, release, manifests, files.blobs)
        return out


def save_pictures(stream: Stream, folder: Path) -> None:
    """Write a few test pictures of every task with their labels."""
    folder.mkdir(parents=True)
    labels = {}
    for index, task in enumerate(stream.tasks):
        for i in range(PICTURES):
            name = f"{index}-{i}.png"
            task.test.image(i).save(folder / name)
            labels[name] = stream.classes[task.test.labels[i]]
    (folder / "labels.json").write_text(json.dumps(labels))


def main() -> None:
    """Run the demo and write its summary.

    Raises:
        SystemExit: if a request failed or was not answered by one release.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/fleet"))
    parser.add_argument("--stream", default="emoji-demo")
    parser.add_argument("--backbone", default="vit-s14")
    parser.add_argument("--seed", type=int, default=1993)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    line = Line()
    backbone = load_backbone(arguments.backbone)
    stream = load_stream(arguments.stream, seed=arguments.seed)
    save_pictures(stream, out / "pictures")
    learner = new_learner(
        out / "run", "simplecil", backbone, stream, seed=arguments.seed,
        cache=FeatureCache(cache_dir(), backbone.digest),
    )  # fmt: skip
    repository = Repository.create(out / "site", out / "keys", development=True)
    work = Workstation(learner, stream, out, repository, out / "pictures")
    export_program(learner.method.program, backbone, work.bundle)
    line.say("workstation", "exported the bundle, made a channel")
    devices = [Device(name, out / name, work.pictures, line) for name in ("line", "dock", "field")]
    with Server(out / "site") as server:
        try:
            for device in devices:
                device.provision(work.bundle, repository.root_file, server.url)
            updates = tell(work, devices, server, line)
        finally:
            for device in devices:
                if device.app is not None and device.app.poll() is None:
                    device.stop()
    summary = sum_up(work, devices, updates, line)
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    if arguments.json:
        print(json.dumps(summary))
    else:
        print(json.dumps({key: value for key, value in summary.items() if key != "time_line"}))
        print(f"time line: {out / 'summary.json'}")
    if summary["failed"] or summary["mixed"]:
        raise SystemExit("a request failed, or was not answered by one release")


def tell(
    work: Workstation, devices: list[Device], server: Server, line: Line
) -> list[dict[str, Any]]:
    """Go through the story; give what the updates over HTTP cost and came to."""
    updates: list[dict[str, Any]] = []
    number = 0

    def fleet(cut: str | None = None) -> None:
        for device in devices:
            if device.name == "field":
                usb = work.out / "usb" / str(number)
                work.repository.mirror(usb, channel=CHANNEL)
                result = device.update("--from", usb)
                updates.append({"device": device.name, **result, "wire": None})
                continue
            if device.name == "dock" and cut is not None:
                device.cut(cut)
                device.start()
            before = server.bytes_sent
            result = device.update()
            updates.append({"device": device.name, **result, "wire": server.bytes_sent - before})

    for index in range(len(work.stream.tasks)):
        number += 1
        release = work.learn(index, number)
        work.publish(release)
        line.say("workstation", f"published release {number}: {index + 1} tasks")
        fleet(cut={1: "pretest", 4: "trial"}.get(index))
        if index == 2:
            number += 1
            bad = work.wrong_canaries(number)
            try:
                work.repository.publish(bad, work.bundle, channel=CHANNEL)
            except ChannelError as error:
                line.say("workstation", f"publish refuses release {number}: {str(error)[:120]}")
            # A workstation whose own test is broken publishes it all the same.
            passed = SelfTest(number, 1, 0.0)
            with mock.patch.object(LoadedRelease, "self_test", return_value=passed):
                work.repository.publish(bad, work.bundle, channel=CHANNEL)
            line.say("workstation", f"published release {number} all the same: wrong canary scores")
            fleet()
        if index == 3:
            number += 1
            work.publish(work.mixed_labels(number))
            line.say("workstation", f"published release {number}: its labels are mixed up")
            fleet()
    return updates


def sum_up(
    work: Workstation, devices: list[Device], updates: list[dict[str, Any]], line: Line
) -> dict[str, Any]:
    """Check every answer against what its release says, and count."""
    counts = [(device, each) for device in devices for each in device.counted()]
    strange = 0
    for _, each in counts:
        for key, times in each["seen"].items():
            release, picture, label = key.split("|")
            strange += times * (work.answers[int(release)][picture] != label)
    outcomes = [each["outcome"] for each in updates]
    done = [each for each in updates if each["outcome"] == "updated"]
    return {
        "requests": sum(each["requests"] for _, each in counts),
        "failed": sum(each["failed"] for _, each in counts),
        "mixed": sum(each["mixed"] for _, each in counts) + strange,
        "swaps": sum(each["swaps"] for _, each in counts),
        "bytes_per_update": [each["wire"] for each in done if each["device"] == "line"],
        "denied": outcomes.count("pretest-failed"),
        "rolled_back": outcomes.count("rolled-back"),
        "devices": [
            {
                "name": device.name,
                "release": device.counted()[-1]["release"],
                "requests": sum(each["requests"] for each in device.counted()),
            }
            for device in devices
        ],
        "apply_seconds": [
            round(
                sum(each["seconds"].get(p, 0) for p in ("verify", "pretest", "switch", "commit")), 3
            )
            for each in done
        ],
        "seconds": round(time.monotonic() - line.began, 1),
        "time_line": line.events,
    }


if __name__ == "__main__":
    main()
