"""The classifier of a device: a bundle, one release at a time, predictions by many threads."""

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgecl_deploy.choice import Wish, read_choice
from edgecl_deploy.engines import FLOAT32, Artefacts, Engine, make_engine
from edgecl_deploy.errors import ImageError, OptionError, WrongBackboneError
from edgecl_deploy.files import BundleFiles, ReleaseFiles, read_bundle, read_release
from edgecl_deploy.format import Preprocessing
from edgecl_deploy.forms import Mode
from edgecl_deploy.images import DEVICE_PIXELS, Channels, ImageSource, check_limit, prepare
from edgecl_deploy.loaded import BATCH, LoadedRelease, Prediction, Tally
from edgecl_deploy.pipeline import Pace, answers
from edgecl_deploy.programs import Scores
from edgecl_deploy.serving import Judge, Serving
from edgecl_deploy.store.layout import ARTEFACTS, LOCAL, has_local, is_store
from edgecl_deploy.unknown.rule import checked_alpha

if TYPE_CHECKING:
    from edgecl_deploy.drift.keeping import Keeper
    from edgecl_deploy.drift.state import Mark
    from edgecl_deploy.drift.verdict import Drift
    from edgecl_deploy.drift.watch import Watch
    from edgecl_deploy.enrol.enrolling import Enrolment, Enrolments
    from edgecl_deploy.enrol.listing import Enrolled
    from edgecl_deploy.follow import Follower
    from edgecl_deploy.meanwhile import Preparation
    from edgecl_deploy.store.store import Store
    from edgecl_deploy.text import TextEncoder

Accept = Callable[["Classifier"], "str | None"]


class Classifier(Serving):
    """Images in, labels out. Many threads may predict while one swaps.

    Attributes:
        max_pixels: The largest image, in pixels, that is decoded.
    """

    def __init__(
        self,
        bundle: BundleFiles,
        engine: Engine,
        mode: Mode = Mode(),
        *,
        verify: bool = True,
        max_pixels: int = DEVICE_PIXELS,
    ) -> None:
        check_limit(max_pixels)
        super().__init__(bundle, engine, mode, verify=verify)
        self.max_pixels = max_pixels
        self._follower: Follower | None = None
        self._preparation: Preparation | None = None
        self._local: Path | None = None
        self._enrolments: Enrolments | None = None
        self._watch: Watch | None = None
        self._keeper: Keeper | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        release: str | os.PathLike[str] | None = None,
        *,
        engine: str = "auto",
        precision: str = "auto",
        form: str = "auto",
        slots: str = "auto",
        batch: int | None = None,
        threads: int | None = None,
        cache: str | os.PathLike[str] | None = None,
        verify: bool = True,
        accept: Accept | None = None,
        max_pixels: int = DEVICE_PIXELS,
        local: str | os.PathLike[str] | None = None,
        meanwhile: str | None = None,
        alpha: float | None = None,
        drift: bool = True,
    ) -> "Classifier":
        """Open a store, or a bundle with a release; the release's canaries must pass.

        With a store it follows the updates: a thread reads `current` five times a second, loads
        and tests a new release next to the old one, and replaces one reference. A release that
        fails there is reported to the update, which undoes it; the old one goes on answering.
        `close` the classifier, or use it in a `with` block.

        Args:
            path: The store, or the bundle directory. Nobody may write in a bundle that is open.
            release: The release directory; it is read once. None for a store.
            engine: The name of an engine. `auto` is what `edgecl-device tune` measured in this
                store, if nothing else is asked for; else ONNX Runtime, or OpenVINO where only that
                is installed.
            precision: `float32`, or a variant that the bundle has and the release is licensed for;
                `auto` without a measurement is `float32`. A release of a store, or one that is
                swapped in, that has no licence or fails in this precision answers in float32, with
                a line in the log and in `fallback`.
            form: `fused` (one graph) or `staged` (encode, match, classify); `auto` is fused where
                the engine takes any size.
            slots: `dynamic`, or `fixed` (staged form only); `auto` is fixed where the engine takes
                no empty tensors.
            batch: Images of every run, for engines that compile for it (1 is a camera's); fewer are
                filled up with black ones. None: any number.
            threads: Threads of one run, None for all cores that this process may use.
            cache: A folder of this user alone, where an engine keeps what it compiles. None: the
                folder `artefacts` of a store, and nowhere for a bundle.
            verify: Hash the weights and the graphs (0.1 s per 100 MB). Without it only their
                sizes are checked. A release is always verified.
            accept: For a store: the application's own test of a new release. It gets a classifier
                of that release, and returns what is wrong with it, or None.
            max_pixels: The largest image that is decoded; a larger one is an error of that image.
            local: A folder for the classes that are enrolled on this device; the first one makes
                it. None: the folder `local` of a store, and no such classes for a bundle.
            meanwhile: The engine that answers, in float32, while the one that is asked for
                compiles, as TensorRT does for minutes; `engine_fallback` tells how it went.
                None: `open` returns when the engine is ready.
            alpha: The share of the images of a class that may be called unknown. None: the setting
                `unknown_alpha` of a store, else what the release has.
            drift: Count what is answered, for `Classifier.drift`; a store keeps the counts. False
                for images that are no service, such as a test.
        """
        if alpha is not None:
            checked_alpha(alpha)
        wish = Wish(engine, precision, form, slots, batch, threads)
        if release is not None:
            runner, mode = wish.meet(None, None if cache is None else Artefacts(Path(cache)))
            bundle = read_bundle(path)
            classifier = cls(bundle, runner, mode, verify=verify, max_pixels=max_pixels)
            ready = classifier._begin_with(meanwhile, threads)
            classifier._keep_local(local)
            classifier.alpha = alpha
            classifier.take(read_release(release), strict=True)
            classifier._prepare(ready, strict=True)
            if drift:
                classifier._look_for_drift(None)
            return classifier
        from edgecl_deploy.follow import Follower  # a store needs POSIX; a release does not

        store = _store(path)
        bundle = store.bundle()
        kept = Artefacts(store.path / ARTEFACTS if cache is None else Path(cache))
        runner, mode = wish.meet(read_choice(store.path, bundle.digest), kept)
        classifier = cls(bundle, runner, mode, verify=verify, max_pixels=max_pixels)
        ready = classifier._begin_with(meanwhile, threads)
        classifier._keep_local(store.path / LOCAL if local is None else local)
        classifier.alpha = store.config.unknown_alpha if alpha is None else alpha
        judge = None if accept is None else classifier._judge(accept)
        if drift:
            classifier._look_for_drift(store)
        classifier._follower = Follower(classifier, store, judge)
        classifier._follower.begin()
        classifier._prepare(ready, strict=False)
        return classifier

    def _begin_with(self, name: str | None, threads: int | None) -> Serving | None:
        """Take another engine for the beginning, in float32.

        Returns:
            What serves in the engine that was asked for; None if that is the one to begin with.
        """
        if name is None:
            return None
        asked = self.in_engine(self.engine, self.mode)
        self.engine, self.mode = Wish(name, FLOAT32, threads=threads).meet(None, None)
        return asked

    def _prepare(self, asked: Serving | None, *, strict: bool) -> None:
        if asked is not None:
            from edgecl_deploy.meanwhile import Preparation

            self._preparation = Preparation(self, asked, strict=strict)

    @classmethod
    def of_files(
        cls,
        bundle: str | os.PathLike[str],
        files: ReleaseFiles,
        engine: str | Engine = "auto",
        mode: Mode = Mode(),
    ) -> "Classifier":
        """Open a bundle with a release that was read already; nothing is tested yet.

        Args:
            bundle: The bundle directory.
            files: The release, read and verified.
            engine: An engine, or its name.
            mode: How it runs; no licence is asked for.
        """
        runner = make_engine(engine) if isinstance(engine, str) else engine
        classifier = cls(read_bundle(bundle), runner, mode)
        classifier.serve(classifier.load(files))
        return classifier

    def _judge(self, accept: Accept) -> Judge:
        """Return the application's test a classifier of the release that it judges."""
        # No reference to self: the thread of the follower must not keep the classifier alive.
        bundle, engine, mode, verify = self.bundle, self.engine, self.mode, self._verify
        most = self.max_pixels

        def judge(loaded: LoadedRelease) -> str | None:
            candidate = Classifier(bundle, engine, mode, verify=verify, max_pixels=most)
            candidate.serve(replace(loaded, tally=Tally()))  # a test is not counted as service
            return accept(candidate)

        return judge

    def close(self) -> None:
        """Stop following a store, and changing the engine; predictions still work."""
        if self._preparation is not None:
            self._preparation.end()
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.close()
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.close()

    def __enter__(self) -> "Classifier":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def release(self) -> int:
        """Number of the release that answers now."""
        return self.loaded.number

    @property
    def precision(self) -> str:
        """The precision in which that release runs."""
        return self.loaded.precision

    @property
    def fallback(self) -> str:
        """Why it does not run in the precision that was asked for; empty if it does."""
        return self.loaded.fallback

    @property
    def engine_fallback(self) -> str:
        """Why another engine answers than the one that was asked for; empty if none does."""
        return "" if self._preparation is None else self._preparation.why

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that it may answer, those of this device among them, each once."""
        return self.loaded.classes

    @property
    def local(self) -> int:
        """The generation of this device's own classes that answers; 0 if none does."""
        over = self.loaded.over
        return 0 if over is None or over.trouble else over.generation

    # -- classes of this device ---------------------------------------------------------------

    def _keep_local(self, path: str | os.PathLike[str] | None) -> None:
        self._local = None if path is None else Path(path)
        if self._local is not None and has_local(self._local):
            self._own()

    def _own(self) -> "Enrolments":
        """Return what holds the classes of this device.

        Raises:
            OptionError: There is no place for them.
        """
        if self._enrolments is None:
            if self._local is None:
                raise OptionError(
                    "a classifier needs a place for the classes of this device",
                    "a bundle and a release",
                    "Pass local=FOLDER to Classifier.open, or open a store.",
                )
            from edgecl_deploy.enrol.enrolling import Enrolments
            from edgecl_deploy.enrol.local import Local

            self._enrolments = Enrolments(Local(self._local), self.bundle.bundle)
            self.overlays = self._enrolments
        return self._enrolments

    @property
    def enrols(self) -> bool:
        """Whether there is a place for classes of this device."""
        return self._local is not None

    def look(self) -> None:
        """Take what other processes have written of this device's classes, and keep what was seen.

        A classifier that follows a store does this by itself.
        """
        keeper = self._keeper
        if keeper is not None:
            keeper.look()
        if self._local is not None and (self._enrolments is not None or has_local(self._local)):
            self._own().look(self)

    def enrol(
        self,
        name: str,
        images: Iterable[ImageSource],
        *,
        note: str = "",
        keep_images: bool = False,
        force: bool = False,
        dry_run: bool = False,
        by: str | None = None,
        channels: Channels = "rgb",
    ) -> "Enrolment":
        """Teach this device a class from a few pictures, or show it more of one; no training.

        Others are answered meanwhile, and from the return on with the class. What the release
        computes for its own classes does not change; the head of a ridge program is solved again
        for all classes, so that their scores move a little. A class that the release has already
        gets the images as one more row, as another domain of it (ridge: they move its column).

        Args:
            name: Of the class.
            images: As for `predict`, at most 200.
            note: A remark, for people.
            keep_images: Keep the prepared images too: a release with other features then takes
                them again. Without it only their features are kept, which are personal data too if
                the images are (docs/privacy.md).
            force: Take the class although it takes images of the release's self-test.
            dry_run: Report, and change nothing.
            by: Who does it; None for the user of this process.
            channels: As for `predict`.

        The program must take classes from images (EnrolmentUnsupportedError), an image must be
        readable (NotEnoughError), the name must be one of its own (NameTakenError), and no image of
        the release's self-test may change its class, nor may another class of this device cease to
        answer (LocalTestError).
        """
        _check_call("enrol", images, 1, 0)
        own = self._own()
        from edgecl_deploy.enrol.enrolling import Wish
        from edgecl_deploy.enrol.records import MAX_CALL

        prepare_one = _preparing(self.preprocessing, channels, self.max_pixels)
        prepared = [prepare_one(each) for each in islice(images, MAX_CALL + 1)]
        wish = Wish(note, by, keep_images, force, dry_run)
        return own.enrol(self, name, prepared, wish)

    def enrol_name(
        self,
        name: str,
        text: "TextEncoder",
        *,
        templates: Sequence[str] | None = None,
        note: str = "",
        force: bool = False,
        dry_run: bool = False,
        by: str | None = None,
    ) -> "Enrolment":
        """Teach this device a class by its name alone; no image, no training.

        The embedding of the name becomes one more row among those of the release's names. The
        program must compare with names (EnrolmentUnsupportedError), and the class must be new
        (NameTakenError).

        Args:
            name: Of the class, in words.
            text: The text program of the backbone.
            templates: As for `TextEncoder.embed`; those of the release's own classes are best.
            note: As for `enrol`, and the others.

        Raises:
            WrongBackboneError: The text program belongs to another backbone.
        """
        own = self._own()
        from edgecl_deploy.enrol.enrolling import Wish

        found = self.bundle.bundle.backbone.digest
        if text.program.backbone != found:
            raise WrongBackboneError(
                f"the text program must belong to the backbone {found[:12]} of the bundle",
                f"one of {text.program.backbone[:12]}",
                "Export it from the CLIP of the bundle: `edgecl export text`.",
            )
        (row,) = text.embed([name], templates)
        return own.enrol_name(self, name, row, Wish(note, by, False, force, dry_run))

    @property
    def enrolled(self) -> "tuple[Enrolled, ...]":
        """The classes of this device, and whether each answers."""
        return () if self._enrolments is None else self._enrolments.listed()

    def unenrol(self, name: str, *, purge: bool = False) -> int:
        """Remove a class of this device; the answers are then as if it had never been enrolled.

        Args:
            name: Of the class.
            purge: Remove it from the older generations too.

        Returns:
            The local generation without it.
        """
        own = self._own()
        from edgecl_deploy.enrol.deciding import remove

        number = remove(own.local, name, purge=purge)
        own.look(self)
        return number

    def statistics(self, names: Iterable[str] = (), *, device: str | None = None) -> bytes:
        """Return sums over the features of this device's classes, for the workstation to learn.

        They are as sensitive as the images (docs/privacy.md). `edgecl enrolled merge` takes them.

        Args:
            names: Of the classes; all that answer if there are none.
            device: Who sends them; None for the id of the store.
        """
        own = self._own()
        if device is None:
            device = "a device" if self.store is None else self.store.config.device
        return own.statistics(self.loaded.alone, names, device).to_bytes()

    # -- drift --------------------------------------------------------------------------------

    def _look_for_drift(self, store: "Store | None") -> None:
        from edgecl_deploy.drift.watch import Settings, Watch

        self._watch = Watch()
        if store is None:
            return
        from edgecl_deploy.drift.keeping import Keeper

        def settings() -> Settings:
            config = store.config
            return Settings(config.drift_run_length, config.drift_every, config.drift_pictures)

        folder = store.path / LOCAL
        self._keeper = Keeper(self._watch, folder, settings, answering=self._mark)

    def _mark(self) -> "Mark":
        from edgecl_deploy.drift.state import Mark

        loaded = self.loaded.answering
        return Mark(loaded.files.digest, loaded.number, loaded.local)

    @property
    def drift(self) -> "Drift | None":
        """What was seen of the images that were answered; None before the first, or without it."""
        watch = self._watch
        state = None if watch is None else watch.state
        if watch is None or state is None:
            return None
        from edgecl_deploy.drift.verdict import verdict

        return verdict(state, watch.shift)

    def saw(
        self,
        found: Sequence[Prediction],
        images: Sequence[np.ndarray | Exception | None],
    ) -> None:
        """Count images that the release of this classifier answered elsewhere, as in a server.

        `predict` and `stream` do this by themselves. It takes microseconds, and raises nothing.

        Args:
            found: The answers.
            images: Of each: uint8 [side, side, 3], or something else where there is none.
        """
        if self._watch is not None:
            self._watch.saw(self._mark(), found, images)

    # -- answers ------------------------------------------------------------------------------

    @property
    def store(self) -> "Store | None":
        """The store that it follows, None if it follows none."""
        return None if self._follower is None else self._follower.store

    def swap(self, release: str | os.PathLike[str]) -> int:
        """Take another release: load, verify, self-test, then replace one reference.

        Predictions go on meanwhile; a call that has begun ends with the release it began with.
        Any failure leaves the release that was there. A release of another program of the bundle
        loads that program's sessions first (a few tenths of a second).

        Returns:
            The number of the new release.

        Raises:
            OptionError: The classifier follows a store, which decides on its releases.
        """
        if self._follower is not None:
            raise OptionError(
                "a classifier that follows a store takes its releases from there",
                os.fspath(release),
                "Open the bundle with this release instead, or close() this one first.",
            )
        return self.take(read_release(release))

    def scores(self, images: np.ndarray) -> Scores:
        """Run the program on images that are prepared already.

        Args:
            images: uint8 [b, h, w, 3], with the size of the bundle's preprocessing.

        Returns:
            The outputs of the program, one column of scores per classifier row.
        """
        return self.loaded.run(images)

    def predict(
        self,
        images: Iterable[ImageSource],
        top_k: int = 5,
        *,
        channels: Channels = "rgb",
        ahead: int = 1,
        alpha: float | None = None,
    ) -> list[Prediction]:
        """Classify images.

        Args:
            images: Paths, encoded bytes, PIL images, or arrays of uint8 [h, w], [h, w, 1],
                [h, w, 3] or [h, w, 4]; an array of [b, h, w, 3] is b images. They are taken one by
                one.
            top_k: How many classes to list per image.
            channels: The order of the colours in arrays; OpenCV's is `bgr`.
            ahead: How many batches of 32 images threads take and prepare while one is run. 0 takes
                and prepares every image in this thread.
            alpha: The share of the images of a class that may be called unknown; None for that of
                the classifier.

        Returns:
            One prediction per image, in order. An image that cannot be read has an `error` and no
            label; the others are not concerned.

        One image in place of a list, a `top_k` that is not positive, a negative `ahead`, an `alpha`
        outside of [1e-6, 0.5], or channels that are unknown are an OptionError.
        """
        _check_call("predict", images, top_k, ahead)
        if alpha is not None:
            checked_alpha(alpha)
        if isinstance(images, (list, tuple)) and len(images) == 1:
            ahead = 0  # there is nothing to do meanwhile
        loaded = self.loaded  # once: the whole call is answered by one release
        return list(
            answers(
                iter(images),
                _preparing(self.preprocessing, channels, self.max_pixels),
                lambda ready: self._answered(loaded, ready, top_k, alpha),
                Pace(BATCH, ahead, whole=True),
            )
        )

    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        top_k: int = 5,
        batch: int = 1,
        channels: Channels = "rgb",
        ahead: int = 1,
    ) -> Generator[Prediction, None, None]:
        """Classify images as they come, from a camera for example; nothing is collected.

        A release that is taken between two runs answers from the next one on.

        Args:
            images: As for `predict`; it may be endless.
            top_k: How many classes to list per image.
            batch: The most images of one run, at most 32, which have one release. What is ready is
                run: a frame never waits for others, unless `ahead` is 0.
            channels: As for `predict`.
            ahead: How many batches threads take and prepare while one is run or its answers are
                read. The images are then taken in another thread than this one, up to
                `ahead * batch` before their answers are asked for. 0 takes and prepares each batch
                in this thread, when its answers are asked for.

        Returns:
            One prediction per image, in order. An error that `images` raises comes after the
            answers to the images before it. Closing the iterator, or leaving it, waits until the
            image at hand is taken and prepared, and ends the threads.

        Raises:
            OptionError: `images` is one image, `top_k` or `batch` is not positive, `ahead` is
                negative, or `channels` is unknown.
        """
        _check_call("stream", images, top_k, ahead)
        if batch < 1:
            raise OptionError("batch must be at least 1", str(batch), "Leave it out for 1.")
        return answers(
            iter(images),
            _preparing(self.preprocessing, channels, self.max_pixels),
            lambda ready: self._answered(self.loaded, ready, top_k),  # what is current when it runs
            Pace(min(batch, BATCH), ahead, whole=False),
        )

    def _answered(
        self,
        loaded: LoadedRelease,
        ready: list[np.ndarray | ImageError],
        top_k: int,
        alpha: float | None = None,
    ) -> list[Prediction]:
        found = _answers_of(loaded, ready, top_k, alpha)
        self.saw(found, ready)
        return found


def _preparing(
    spec: Preprocessing, channels: Channels, max_pixels: int
) -> Callable[[ImageSource], np.ndarray | ImageError]:
    """Return what makes an image ready for the program, or finds what is wrong with it."""

    def prepared(source: ImageSource) -> np.ndarray | ImageError:
        try:
            return prepare(source, spec, channels=channels, max_pixels=max_pixels)
        except ImageError as error:
            return error

    return prepared


def _answers_of(
    loaded: LoadedRelease,
    ready: list[np.ndarray | ImageError],
    top_k: int,
    alpha: float | None,
) -> list[Prediction]:
    """Run the images that could be prepared; the others are answered by their errors."""
    images = [each for each in ready if not isinstance(each, ImageError)]
    found = iter(loaded.predict(np.stack(images), top_k, alpha) if images else ())
    return [
        loaded.failed(str(each)) if isinstance(each, ImageError) else next(found) for each in ready
    ]


def _check_call(name: str, images: object, top_k: int, ahead: int) -> None:
    """Check the arguments of a call that classifies.

    Raises:
        OptionError: `images` is one image, `top_k` is not positive, or `ahead` is negative.
    """
    if top_k < 1:
        raise OptionError("top_k must be at least 1", str(top_k), "Ask for one class or more.")
    if ahead < 0:
        raise OptionError("ahead must be at least 0", str(ahead), "Leave it out for 1.")
    if isinstance(images, (str, bytes, bytearray, os.PathLike)) or (
        isinstance(images, np.ndarray) and images.ndim != 4
    ):
        raise OptionError(
            f"{name} takes a list of images", type(images).__name__, f"Call {name}([image])."
        )


def _store(path: str | os.PathLike[str]) -> "Store":
    from edgecl_deploy.store.store import Store

    if not is_store(path):
        raise OptionError(
            "a classifier needs a store, or a bundle and a release",
            f"{os.fspath(path)} alone, which is no store",
            "Name the release too, or make a store with `edgecl-device init`.",
        )
    return Store.open(path)
