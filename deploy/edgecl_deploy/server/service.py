"""Answers requests with one classifier: what is read, prepared, run and written, and by whom.

The event loop reads bodies and writes answers; two threads inflate, parse and decode; one runs.
Laws: an answer is one release's; a request that is refused leaves nothing; when the server ends,
requests that have begun are finished and others are refused.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np

from edgecl_deploy.errors import (
    DeployError,
    ImageError,
    OptionError,
    RequestError,
    one_line,
    shown,
)
from edgecl_deploy.images import prepare
from edgecl_deploy.loaded import LoadedRelease
from edgecl_deploy.programs import Scores
from edgecl_deploy.runtime import Classifier
from edgecl_deploy.server import answers, enrolment, limits, oip, requests
from edgecl_deploy.server.binary import inflate, split
from edgecl_deploy.server.events import Events
from edgecl_deploy.server.guard import Rights
from edgecl_deploy.server.metrics import Metrics
from edgecl_deploy.server.queue import Ran, Room, Runner, Share
from edgecl_deploy.text import TextEncoder

T = TypeVar("T")
_THREADS = 2  # that decode
_DRIFT = 1.0  # seconds between two looks for drift
_LOG = logging.getLogger(__name__)
_OWN = "a class that is removed must be one of this device"
_LIST = "GET /edgecl/v1/enrolled lists them."
_LATE = (504, "a request must be run within its time", "that others took it", "Ask less often.")


@dataclass(frozen=True)
class Call:
    """A request for answers, as it came."""

    model: oip.Model
    body: bytes
    encoding: str = ""  # Content-Encoding
    head: str | None = None  # how long its JSON is
    image: bool = False  # whether the body is one image file, by its type
    rights: Rights = Rights.READ
    version: str | None = None  # the one that must answer


@dataclass(frozen=True, eq=False)
class _Ready:
    """A request whose images are prepared."""

    request: requests.Request
    images: np.ndarray  # uint8 [b, side, side, 3], of those without an error
    errors: list[str | None]  # of each image


@dataclass(frozen=True)
class Answer:
    """The answer to a request."""

    body: bytes
    head: int | None  # bytes of its JSON if tensors follow
    release: str  # the version that answered


class Service:
    """One classifier, asked by many.

    Args:
        classifier: What answers; whoever opened it closes it.
        tell: Is told of events.
        room: Images in work.
        deadline: Seconds from the end of a body to the begin of its run.
        top: Classes per image if a request does not say.
    """

    def __init__(
        self,
        classifier: Classifier,
        tell: Callable[[dict[str, Any]], None] = lambda _: None,
        *,
        room: int = limits.QUEUE,
        deadline: float = limits.DEADLINE,
        top: int = 5,
        text: TextEncoder | None = None,
    ) -> None:
        self.classifier, self._text = classifier, text
        self.models = oip.models(classifier.preprocessing.size)
        self.images = Room(room, "images")
        self.held = Room(limits.MAX_HELD, "bytes of bodies")
        self.listeners = Room(limits.MAX_LISTENERS, "listeners")
        self.enrolments = Room(limits.MAX_ENROLMENTS, "enrolments")
        self.metrics = Metrics(
            lambda: self.answering,
            lambda: self.images.used,
            lambda: classifier.enrolled,
            lambda: classifier.drift,
            lambda: forgotten_floor(classifier),
        )
        self.events = Events(tell)
        self.started = time.time()
        self._deadline, self._top = deadline, top
        self._runner = Runner(lambda: classifier.loaded, self.metrics.ran)
        self._pool = ThreadPoolExecutor(_THREADS, "edgecl-decode")
        self._own = ThreadPoolExecutor(1, "edgecl-enrol")
        self._seen = self.answering
        self._cause: str | None = None  # of drift; None before the first image
        self._next = 0.0  # when to look for it again (monotonic)
        self._blind = False  # whether that has failed
        self._busy = 0
        self._end: float | None = None  # when the last may finish, once the server ends

    @property
    def answering(self) -> LoadedRelease:
        """What answers now."""
        return self.classifier.loaded.answering

    # -- its life -----------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Whether it takes nothing new."""
        return self._end is not None

    @property
    def drained(self) -> bool:
        """Whether it ends and nothing is left to finish, or no time."""
        return self._end is not None and (self._busy == 0 or time.monotonic() > self._end)

    def drain(self) -> None:
        """Take nothing new from now on."""
        if self._end is None:
            self._end = time.monotonic() + limits.DRAIN_SECONDS
            self.events.add("drain", busy=self._busy)

    def look(self) -> None:
        """Notice that another release answers, or without the classes of this device; and drift."""
        loaded = self.answering
        if loaded is not self._seen:
            self.metrics.swaps.inc()
            before, now = oip.version(self._seen), oip.version(loaded)
            self.events.add("swap", release=loaded.number, version=now, before=before)
            self._seen = loaded
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _DRIFT
            try:
                self._look_for_drift()
            except Exception as error:  # whatever it is, those who ask are answered
                if not self._blind:
                    self._blind = True
                    _LOG.warning("drift-unseen: it is not looked for: %s", one_line(error))

    def _look_for_drift(self) -> None:
        drift, before = self.classifier.drift, self._cause
        self._cause = None if drift is None or not drift.answered else drift.cause
        if drift is not None and drift.cause not in {"", before}:
            self.events.add("drift", cause=drift.cause, version=drift.version, since=drift.since)

    def check_taking(self) -> None:
        """Refuse what is new when the server ends.

        Raises:
            RequestError: It ends.
        """
        if self.draining:
            raise RequestError(
                503, "a request must come before the server ends", "that it ends", "Ask again."
            )

    @contextmanager
    def working(self) -> Iterator[None]:
        """Let the server end only when the block is left; what is new is refused then."""
        self.check_taking()
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    def close(self) -> None:
        """End its threads; what has not begun is not run."""
        self._pool.shutdown(cancel_futures=True)
        self._own.shutdown(cancel_futures=True)
        self._runner.close()

    # -- an answer ----------------------------------------------------------------------------

    def model(self, name: str, version: str | None) -> oip.Model:
        """Return a model that is asked for.

        Raises:
            RequestError: There is none of this name, or another version of it answers.
        """
        found = self.models.get(name)
        if found is None:
            raise RequestError(
                404,
                f"a model must be one of {', '.join(self.models)}",
                shown(name),
                "GET /v2/models/edgecl describes it.",
            )
        check_version(version, self.answering)
        return found

    async def infer(self, call: Call) -> Answer:
        """Answer a request."""
        began = time.monotonic()
        with self.images.share() as places:
            places.grow(1)
            end = began + self._deadline
            ready = await _within(self._pool.submit(self._ready, call, places, end), end)
            if ready.request.timeout is not None:
                end = min(end, began + ready.request.timeout)
            if not len(ready.images):
                ran = self._nothing()
            else:
                ran = await _within(self._runner.submit(ready.images), end)
                self.metrics.stage("wait", ran.waited)
                self.metrics.stage("run", ran.seconds)
            return await asyncio.wrap_future(self._pool.submit(self._answer, call, ready, ran))

    def _ready(self, call: Call, places: Share, end: float) -> _Ready:
        """Read a request and prepare its images.

        Raises:
            RequestError: It is malformed, late, or has more images than there is room for.
        """
        if time.monotonic() > end:
            raise RequestError(*_LATE)
        begin = time.perf_counter()
        request = self._read(call)
        if len(request.images) > self.images.most:
            raise RequestError(
                400,
                f"a request must have at most {self.images.most} images, as --queue has it",
                f"{len(request.images)}",
                "Send fewer at once.",
            )
        places.grow(len(request.images) - 1)
        if isinstance(request.images, np.ndarray):
            ready = _Ready(request, request.images, [None] * len(request.images))
        else:
            ready = self._prepared(request, request.images)
        self.metrics.stage("prepare", time.perf_counter() - begin)
        return ready

    def _read(self, call: Call) -> requests.Request:
        body = inflate(call.body, call.encoding)
        if call.image or (call.head == "0" and call.model is oip.FILES):
            return requests.of_image(body, self._top, binary=not call.image)
        request = requests.read_request(*split(body, call.head), call.model, self._top)
        private = any(each.name == oip.PRIVATE for each in request.wanted or ())
        if private and call.rights < Rights.ADMIN:
            raise RequestError(
                403, f"the output {oip.PRIVATE} must be asked for with the token admin", "less", ""
            )
        return request

    def _prepared(self, request: requests.Request, files: list[bytes]) -> _Ready:
        spec, most = self.classifier.preprocessing, self.classifier.max_pixels
        images, errors = [], list[str | None]()
        for file in files:
            try:
                images.append(prepare(file, spec, max_pixels=most))
                errors.append(None)
            except ImageError as error:
                errors.append(str(error))
        wrong = next((each for each in errors if each is not None), None)
        told = request.told
        if wrong is not None and not told:
            self._count_refused(errors)
            raise RequestError(
                400,
                "each image must be readable"
                + ("" if len(files) == 1 else ", unless the output error is asked for"),
                f"image {errors.index(wrong)}: {wrong}",
                "",
            )
        size = spec.size
        return _Ready(
            request, np.stack(images) if images else np.empty((0, size, size, 3), np.uint8), errors
        )

    def _count_refused(self, errors: list[str | None]) -> None:
        """Count the images of a request that is refused since one of them cannot be read."""
        self.metrics.answered((), sum(each is not None for each in errors))
        none = self.answering.failed("")
        found = [replace(none, error=each) for each in errors]
        self.classifier.saw(found, [None] * len(found))

    def _nothing(self) -> Ran:
        loaded = self.answering
        none = np.empty((0, 0), np.float32)
        scores = np.empty((0, len(loaded.rows)), np.float32)
        return Ran(loaded, Scores(scores, none, none.astype(np.int64), none), 0.0, 0.0)

    def _answer(self, call: Call, ready: _Ready, ran: Ran) -> Answer:
        """Write an answer.

        Raises:
            RequestError: The release gives no score for an image, and the caller would not see it;
                or another version answered than the one that was asked for.
        """
        begin, loaded = time.perf_counter(), ran.loaded
        check_version(call.version, loaded)
        found = answers.predictions(loaded, ran.out, ready.errors, ready.request.top)
        self.metrics.answered(
            [each for each, error in zip(found, ready.errors, strict=True) if error is None],
            sum(error is not None for error in ready.errors),
        )
        images = iter(ready.images)
        self.classifier.saw(
            found, [next(images) if error is None else None for error in ready.errors]
        )
        pairs = zip(found, ready.errors, strict=True)
        lost = next((each.error for each, error in pairs if each.error and not error), None)
        if lost is not None and not ready.request.told:
            raise RequestError(500, "an image must get a score", lost, "")
        tensors = answers.tensors(ready.request, loaded, ran.out, found, ready.errors)
        version = oip.version(loaded)
        head = {
            "model_name": call.model.name,
            "model_version": version,
            "id": ready.request.id,
            "parameters": {
                "release": loaded.number,
                "local": oip.local_of(loaded),
                "digest": loaded.files.digest[:12],
            },
        }
        body, length = answers.write_answer(head, tensors)
        self.metrics.stage("answer", time.perf_counter() - begin)
        return Answer(body, length if length < len(body) else None, version)

    # -- classes of this device ---------------------------------------------------------------

    async def enrol(self, body: bytes, encoding: str) -> Mapping[str, Any]:
        """Give this device a class, or more images of one; others are answered meanwhile.

        Args:
            body: Of the request.
            encoding: Content-Encoding.
        """

        def enrol() -> Mapping[str, Any]:
            showing = enrolment.read_showing(inflate(body, encoding))
            classifier = self._teachable()
            if showing.by_name:
                return asdict(
                    classifier.enrol_name(
                        showing.name,
                        self._named(),
                        templates=showing.templates,
                        note=showing.note,
                        force=showing.force,
                        dry_run=showing.dry_run,
                        by=enrolment.BY,
                    )
                )
            found = classifier.enrol(
                showing.name,
                showing.images,
                note=showing.note,
                keep_images=showing.keep_images,
                force=showing.force,
                dry_run=showing.dry_run,
                by=enrolment.BY,
            )
            return asdict(found)

        return await self._changed(enrol)

    async def unenrol(self, name: str, purge: bool) -> Mapping[str, Any]:
        """Remove a class of this device.

        Args:
            name: Of the class.
            purge: Also from the older generations, and if it was removed before.

        Raises:
            RequestError: There is none of this name.
        """
        if not purge and name not in {each.name for each in self.classifier.enrolled}:
            raise RequestError(404, _OWN, shown(name), _LIST)

        def remove() -> Mapping[str, Any]:
            try:
                return {"name": name, "local": self.classifier.unenrol(name, purge=purge)}
            except OptionError as error:  # no place for classes, or none of this name
                raise RequestError(404, _OWN, shown(name), _LIST) from error

        return await self._changed(remove)

    async def _changed(self, change: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Change the classes of this device, one at a time; describe what came of it."""
        with self.working(), self.enrolments.share() as place:
            place.grow(1)
            try:
                found = await asyncio.wrap_future(self._own.submit(change))
            except DeployError as error:
                why = enrolment.refused(error)
                raise why from error
        return {**found, "version": oip.version(self.answering)}

    def _named(self) -> TextEncoder:
        """Return the text program.

        Raises:
            RequestError: The server has none.
        """
        if self._text is None:
            raise RequestError(
                422,
                "the server must have a text program to take a class by its name",
                "none",
                "Start it with --text TEXT_PROGRAM.",
            )
        return self._text

    def _teachable(self) -> Classifier:
        """Return the classifier.

        Raises:
            RequestError: It has no place for classes of this device.
        """
        if not self.classifier.enrols:
            raise RequestError(
                422,
                "the server must have a place for classes of this device",
                "a bundle and a release",
                "Serve a store, or start it with --local DIR.",
            )
        return self.classifier

    def enrolled(self) -> Mapping[str, Any]:
        """List the classes of this device."""
        loaded = self.answering
        return {
            "version": oip.version(loaded),
            "enrolled": [asdict(each) for each in self.classifier.enrolled],
            "hidden": sorted(loaded.over.hidden) if loaded.over is not None else [],
        }

    @property
    def enrolment(self) -> str | None:
        """How the program that answers takes a class; None if it cannot, or has no place for it."""
        program = self.classifier.bundle.bundle.programs[self.answering.files.release.program]
        return program.enrol.kind if self.classifier.enrols and program.enrol is not None else None

    # -- what it is ---------------------------------------------------------------------------

    def drift(self) -> Mapping[str, Any]:
        """Describe what was seen of the images that were answered, as `edgecl-device drift`."""
        found = self.classifier.drift
        return {"cause": None} if found is None else asdict(found)

    def status(self) -> Mapping[str, Any]:
        """Describe what serves now."""
        loaded = self.answering
        release = loaded.files.release
        return {
            "release": loaded.number,
            "local": oip.local_of(loaded),
            "digest": loaded.files.digest,
            "program": release.program,
            "backbone": release.backbone,
            "precision": loaded.precision,
            "fallback": bool(loaded.fallback),
            "classes": len(loaded.classes),
            "enrolment": self.enrolment,
            "follows": self.classifier.store is not None,
            "images": loaded.tally.images,
            "failed": loaded.tally.failed,
            "in_work": self.images.used,
            "room": self.images.most,
            "drift": self._cause,
            "draining": self.draining,
            "events": self.events.count,
            "seconds": round(time.time() - self.started, 1),
        }


async def _within(future: "Future[T]", end: float) -> T:
    """Wait for work to begin until a time, and then for its result.

    Raises:
        RequestError: It has not begun by then, and never will.
    """
    waiting = asyncio.wrap_future(future)
    done: set[Any] | None = None
    try:
        done, _ = await asyncio.wait({waiting}, timeout=max(0.0, end - time.monotonic()))
    finally:
        if done is None:  # nobody waits for it any more
            future.cancel()
    if not done and future.cancel():
        raise RequestError(*_LATE)
    return await waiting


def check_version(version: str | None, loaded: LoadedRelease) -> None:
    """Refuse a version that does not answer.

    Raises:
        RequestError: Another one does.
    """
    now = oip.version(loaded)
    if version not in {None, now}:
        raise RequestError(
            404,
            f"a version must be the one that answers, {now}",
            shown(version),
            "Leave the version out.",
        )


def index(classifier: Classifier, loaded: LoadedRelease) -> list[dict[str, str]]:
    """Return the releases that are on the device, as the repository index has them."""
    kept = {(loaded.number, oip.version(loaded)): ("READY", "")}
    store = classifier.store
    if store is not None:
        denied = store.denied.releases
        state = store.state
        serving = store.current()
        for generation in store.generations().values():
            if generation.release == loaded.number:
                continue
            reason = "kept"
            if generation.number == serving:
                reason = "being loaded"
            elif generation.digest in denied:
                reason = "denied"
            elif state is not None and generation.number == state.previous:
                reason = "previous"
            kept[generation.release, str(generation.release)] = ("UNAVAILABLE", reason)
    return [
        {"name": model, "version": version, "state": state, "reason": reason}
        for model in oip.models(classifier.preprocessing.size)
        for (_, version), (state, reason) in sorted(kept.items())
    ]


def wanted_release(classifier: Classifier) -> int | None:
    """Return the release that the store names, None without a store or a release in it."""
    store = classifier.store
    found = None if store is None else store.serving()
    return None if found is None else found.release


def forgotten_floor(classifier: Classifier) -> int | None:
    """Return the number before which releases are erased; None without a store, or one to read."""
    store = classifier.store
    try:
        return None if store is None else store.denied.purge_below
    except (DeployError, OSError):  # the other metrics are worth more then
        return None
