"""`make life-demo`: a device that says "unknown", is taught, and keeps what it was taught.

A workstation learns `emoji-demo` with SimpleCIL and publishes release 3; a device serves it over
HTTP while a thread asks. A class that nobody taught is answered "unknown"; five pictures teach it,
over HTTP. A release that teaches ten other classes arrives meanwhile. The device's sums of the
class go to the workstation and come back as release 5, signed. A class is forgotten, and no byte
of it is left on the device.
"""

import argparse
import base64
import http.client
import io
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
from PIL import Image
from time_line import Line

from edgecl.backbones import load_clip
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.cache import cache_dir
from edgecl.forget import forget_in_run
from edgecl.learning.learner import Learner
from edgecl.session import learn_statistics, learn_task, new_learner
from edgecl.streams import ImageSet, Stream, load_stream
from edgecl_deploy import Classifier, read_release
from edgecl_deploy.drift.detector import Detector, threshold
from edgecl_deploy.format import parse_statistics, read_tensors
from edgecl_export.bundle import export_program
from edgecl_export.channel import Repository, Server
from edgecl_export.pack import export_packs
from edgecl_export.release import export_release

DEVICE = Path(sys.executable).with_name("edgecl-device")
WORKSTATION = Path(sys.executable).with_name("edgecl")
CHANNEL = "stable"
TOKEN = "enrol" + "0123456789abcdef" * 2
NEW = "headphone"  # of the last task, which the workstation does not learn
ALPHA = 0.1  # the share of known images that may be called unknown
SHOWN = 5  # pictures that teach a class
TURNS = (-12, -6, 0, 6, 12)  # degrees: the frames of a hand that turns a thing
TRIAL = ("--trial-seconds", "2")
WAIT = 60.0  # seconds for a process to do what it must
PAUSE = 0.05  # seconds between two requests
PROBE, DISTINCT = 64, 16  # bytes of a piece, and different ones among them
RUN_LENGTH = 1e4  # images between two false alarms of drift
MOST_IMAGES = 10_000


@dataclass(frozen=True)
class Answer:
    """What a device answers for one picture."""

    version: str  # 4.1 is release 4 with the first state of the classes of the device
    label: str
    known: bool
    p: float
    scores: dict[str, float]  # of all classes


def png(picture: Image.Image) -> bytes:
    """Return the file of a picture."""
    file = io.BytesIO()
    picture.convert("RGB").save(file, "png")
    return file.getvalue()


def frames(picture: Image.Image) -> list[bytes]:
    """Return what a camera sees of a thing that a hand turns, as files."""
    whole, bilinear = picture.convert("RGB"), Image.Resampling.BILINEAR
    return [png(whole.rotate(each, bilinear, fillcolor="white")) for each in TURNS]


def rows(images: ImageSet, stream: Stream, name: str) -> list[int]:
    """Return where the images of a class are."""
    return [i for i, label in enumerate(images.labels) if stream.classes[label] == name]


def words(answers: list[Answer]) -> str:
    """Return answers as people read them."""
    unknown = sum(not each.known for each in answers)
    labels = ", ".join(sorted({each.label for each in answers if each.known}))
    return f"{unknown} of {len(answers)} frames are unknown" + (
        f", others {labels}" if labels else ""
    )


@dataclass
class Client:
    """Asks the server of a device."""

    url: str

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> Any:
        """Send a request.

        Raises:
            OSError: if it is refused.
        """
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=WAIT)
        headers = {"Authorization": f"Bearer {TOKEN}", **({"Content-Type": kind} if kind else {})}
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise OSError(f"{method} {path}: {answer.status} {text[:300].decode()}")
        return json.loads(text)

    def classify(self, png: bytes) -> Answer:
        """Return the answer for one picture."""
        found = self.ask("POST", "/v2/models/edgecl/infer", png, "image/png")
        values = {each["name"]: each["data"] for each in found["outputs"]}
        return Answer(
            version=found["model_version"],
            label=values["label"][0],
            known=values["known"][0],
            p=values["p"][0],
            scores=dict(zip(values["label"], values["score"], strict=True)),
        )

    def enrol(self, name: str, pictures: list[bytes]) -> dict[str, Any]:
        """Teach the device a class."""
        images = [base64.b64encode(each).decode() for each in pictures]
        body = json.dumps({"name": name, "images": images}).encode()
        found: dict[str, Any] = self.ask("POST", "/edgecl/v1/enrolled", body, "application/json")
        return found

    def remove(self, name: str) -> None:
        """Remove a class of the device, and every byte of it."""
        self.ask("DELETE", f"/edgecl/v1/enrolled/{quote(name)}?purge=true")


class Load:
    """A thread that asks for known pictures without an end."""

    def __init__(self, client: Client, pictures: list[bytes]) -> None:
        self.requests = self.failed = self.mixed = 0
        self.errors: list[str] = []
        self._client, self._pictures = client, pictures
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        said: dict[tuple[str, bytes], str] = {}
        while not self._stop.wait(PAUSE):
            png = self._pictures[self.requests % len(self._pictures)]
            self.requests += 1
            try:
                answer = self._client.classify(png)
            except (OSError, ValueError) as error:
                self.failed += 1
                self.errors.append(str(error)[:300])
                continue
            # A version answers a picture in one way: else it was answered by parts of two.
            self.mixed += said.setdefault((answer.version, png), answer.label) != answer.label

    @contextmanager
    def running(self) -> Iterator["Load"]:
        """Ask until the block ends."""
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()


@dataclass
class Workstation:
    """Learns, makes releases, publishes."""

    learner: Learner
    stream: Stream
    out: Path
    repository: Repository

    @property
    def bundle(self) -> Path:
        """The bundle of the device."""
        return self.out / "bundle"

    def learn(self, *tasks: int) -> None:
        """Learn tasks of the stream."""
        for task in tasks:
            learn_task(self.learner, self.stream.tasks[task], self.stream.classes)

    def release(self, number: int, **purge: Any) -> Path:
        """Make a release of what the run knows, and publish it."""
        packs = self.out / "packs" / str(number)
        export_packs(self.learner.run, packs, dtype="float32")
        folder = self.out / "releases" / str(number)
        export_release(packs, folder, self.bundle, number=number)
        self.repository.publish(folder, self.bundle, channel=CHANNEL, **purge)
        return folder


@dataclass
class Device:
    """A store, a server that answers from it, and an updater that is called."""

    folder: Path
    line: Line

    @property
    def store(self) -> Path:
        """Its store."""
        return self.folder / "store"

    def provision(self, bundle: Path, root: Path, url: str) -> None:
        """Make its store."""
        self.folder.mkdir(parents=True)
        run(DEVICE, "init", self.store, "--bundle", bundle, "--root", root, "--channel", url,
            "--name", CHANNEL, "--device-id", "shelf", *TRIAL)  # fmt: skip
        run(DEVICE, "config", self.store, f"unknown_alpha={ALPHA}")
        (self.folder / "tokens").write_text(f"admin {TOKEN}\n")
        (self.folder / "tokens").chmod(0o600)

    def update(self) -> None:
        """Take the release of the channel.

        Raises:
            SystemExit: if it does not.
        """
        found = json.loads(run(DEVICE, "update", self.store, "--json", check=False))
        self.line.say("device", f"{found['outcome']}: {found['reason'][:150]}")
        if found["outcome"] != "updated":
            raise SystemExit(f"the device must take the release, found: {found}")

    @contextmanager
    def serving(self) -> Iterator[Client]:
        """Answer over HTTP until the block ends."""
        words = (DEVICE, "serve", self.store, "--listen", "127.0.0.1:0", "--top", 100, "--json")
        tokens = ("--token-file", self.folder / "tokens")
        with subprocess.Popen(list(map(str, (*words, *tokens))), stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            try:
                begin = json.loads(server.stdout.readline())
                self.line.say("device", f"release {begin['release']} answers at {begin['url']}")
                yield Client(begin["url"])
            finally:
                server.terminate()


def run(*words: object, check: bool = True) -> str:
    """Run a command and return what it prints.

    Raises:
        SystemExit: if it fails and must not.
    """
    done = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, check=False, timeout=5 * WAIT
    )
    if check and done.returncode:
        raise SystemExit(f"{words} failed: {done.stderr}")
    return done.stdout


def wait_for(client: Client, png: bytes, version: str) -> Answer:
    """Return the answer of a version, when it answers.

    Raises:
        TimeoutError: if it does not.
    """
    end = time.monotonic() + WAIT
    while (answer := client.classify(png)).version != version:
        if time.monotonic() > end:
            raise TimeoutError(f"version {version} must answer, found {answer.version}")
        time.sleep(PAUSE)
    return answer


def share(found: list[bool]) -> float:
    """Return the share of what holds."""
    return round(sum(found) / len(found), 4)


def area(known: list[float], unknown: list[float]) -> float:
    """Return the area under the curve of known against unknown: the share of pairs in order."""
    above = np.subtract.outer(known, unknown)
    return round(float(((above > 0) + 0.5 * (above == 0)).mean()), 4)


def delay(typical: list[float]) -> int | None:
    """Return how many images of no class it takes until the device notices, None if it does not."""
    detector, limit = Detector(), threshold(RUN_LENGTH)
    state = detector.start()
    for count in range(1, MOST_IMAGES):
        state = detector.step(state, typical[count % len(typical)])
        if detector.evidence(state) >= limit:
            return count
    return None


def judged(work: Workstation, release: Path) -> dict[str, Any]:
    """Return how well a release tells images of its classes from others; all are test images."""
    known, unknown, covered = [], [], []
    with Classifier.open(work.bundle, release, alpha=ALPHA) as classifier:
        for task in work.stream.tasks:
            names = [work.stream.classes[label] for label in task.test.labels]
            images = [task.test.image(i) for i in range(len(names))]
            for name, answer in zip(names, classifier.predict(images), strict=True):
                assert answer.typical is not None
                if name in classifier.classes:
                    known.append(answer.typical)
                    covered.append(name in answer.set)
                else:
                    unknown.append(answer.typical)
    return {
        "auroc": area(known, unknown),
        "coverage": share(covered),
        "known_images": len(known),
        "unknown_images": len(unknown),
        "drift_delay_images": delay(unknown),
    }


def probes_of(release: Path, name: str) -> list[bytes]:
    """Return pieces of what a release holds of a class: its row, and its self-test's pictures."""
    files = read_release(release)
    found = []
    for pack in files.packs:
        if name in pack.classes:
            for blob in pack.blobs:
                for tensor in read_tensors(files.blobs[blob]).values():
                    if tensor.ndim and len(tensor) == len(pack.classes):
                        found.append(tensor[pack.classes.index(name)].tobytes())
    canaries = files.release.canaries
    assert canaries is not None
    best = read_tensors(files.blobs[canaries.scores])["scores"].argmax(axis=1)
    classes = [each for pack in files.packs for each in pack.classes]
    for blob, row in zip(canaries.images, best, strict=True):
        if classes[row] == name:
            found += [each.tobytes() for each in read_tensors(files.blobs[blob]).values()]
    assert found
    pieces = [data[i : i + PROBE] for data in found for i in range(0, len(data) - PROBE + 1, PROBE)]
    return [each for each in pieces if len(set(each)) >= DISTINCT]  # white is of every picture


def bytes_left(store: Path, probes: list[bytes]) -> int:
    """Return how many bytes of what was forgotten are in the files of a store."""
    files = [path for path in store.rglob("*") if path.is_file() and not path.is_symlink()]
    contents = [path.read_bytes() for path in files]
    return sum(len(probe) for probe in probes for data in contents if probe in data)


def tell(work: Workstation, device: Device, client: Client, line: Line) -> dict[str, Any]:
    """Go through the story; return the figures."""
    stream, name = work.stream, NEW
    task = next(each for each in stream.tasks if name in each.classes)
    train, test = task.train, task.test
    shown = [png(train.image(i)) for i in rows(train, stream, name)][:SHOWN]
    own = [frame for i in rows(test, stream, name) for frame in frames(test.image(i))]

    before = [client.classify(each) for each in own]
    line.say("device", f"{name}, which nobody taught: {words(before)}")

    start = time.perf_counter()
    found = client.enrol(name, shown)
    seconds = time.perf_counter() - start
    after = [client.classify(each) for each in own]
    line.say("device", f"{len(shown)} pictures taught it in {seconds:.2f} s: {words(after)}")

    work.learn(3)
    work.release(4)
    line.say("workstation", "published release 4: ten other classes")
    device.update()
    kept = wait_for(client, own[0], f"4.{found['local']}")
    scores = {each: client.classify(each).scores[name] for each in own}
    line.say("device", f"release {kept.version} answers, and knows {name}: {kept.label}")

    statistics = device.folder / "statistics.safetensors"
    run(DEVICE, "enrolled", "export", device.store, "-o", statistics, "--yes")
    sums = parse_statistics(statistics.read_bytes())
    learn_statistics(work.learner, [sums], "devices", leave_stream=True)
    work.release(5)
    line.say("workstation", f"published release 5: it has {name}, from sums of the device")
    device.update()
    client.remove(name)
    published = wait_for(client, own[0], "5")
    errors = [abs(client.classify(each).scores[name] - score) for each, score in scores.items()]
    line.say("device", f"release 5 answers {published.label}; scores differ by {max(errors):.1e}")
    figures = judged(work, work.out / "releases" / "5")

    gone = stream.tasks[0].classes[0]
    probes = probes_of(work.out / "releases" / "5", gone)
    forget_in_run(work.learner.run, name=gone, learner=lambda: work.learner)
    work.release(6, min_release=6, purge=True)
    line.say("workstation", f"{gone} is forgotten; published release 6, which purges")
    device.update()
    left = bytes_left(device.store, probes)
    line.say("device", f"{left} bytes of {gone} are left; the store's bundle has none of it")
    return {
        "class": name,
        "unknown_before": share([not each.known for each in before]),
        "known_after": share([each.known and each.label == name for each in after]),
        "enrol_seconds": round(seconds, 3),
        "enrol_images": len(shown),
        "max_score_error": max(errors),
        "forgotten_bytes_left": left,
        **figures,
    }


def main() -> None:
    """Run the demo and write its summary.

    Raises:
        SystemExit: if a request failed, or something is not as it must be.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/life"))
    parser.add_argument("--seed", type=int, default=1993)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    line = Line()
    clip, stream = load_clip("edgecl-clip-s"), load_stream("emoji-demo", seed=arguments.seed)
    learner = new_learner(
        out / "run", "simplecil", clip, stream, seed=arguments.seed,
        cache=FeatureCache(cache_dir(), clip.visual.digest),
    )  # fmt: skip
    repository = Repository.create(out / "site", out / "keys", development=True)
    work = Workstation(learner, stream, out, repository)
    export_program(learner.method.program, learner.backbone, work.bundle)
    work.learn(0, 1, 2)
    work.release(3)
    line.say("workstation", "learned thirty classes, published release 3")
    device = Device(out / "device", line)
    pictures = [png(task.test.image(i)) for task in stream.tasks[1:3] for i in range(5)]
    with Server(out / "site") as site:
        device.provision(work.bundle, repository.root_file, site.url)
        device.update()
        with device.serving() as client, Load(client, pictures).running() as load:
            figures = tell(work, device, client, line)
    summary = {
        **figures,
        "requests": load.requests,
        "failed": load.failed,
        "mixed": load.mixed,
        "errors": load.errors[:5],
        "seconds": round(time.monotonic() - line.began, 1),
        "time_line": line.events,
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    short = {key: value for key, value in summary.items() if key != "time_line"}
    print(json.dumps(summary if arguments.json else short))
    if load.failed or load.mixed or figures["forgotten_bytes_left"]:
        raise SystemExit(
            "a request failed or was answered by parts of two versions, or bytes are left"
        )


if __name__ == "__main__":
    main()
