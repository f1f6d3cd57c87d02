"""The classifier of a device: a bundle, one release at a time, predictions by many threads.

Laws: everything that a prediction needs hangs on ONE reference to an object that never changes;
a call reads that reference once; a new release is loaded, checked and self-tested beside the
old one, and then the reference is replaced. Whatever fails before that leaves the old release.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from edgecl_deploy.engines import Engine, make_engine
from edgecl_deploy.errors import DeployError, ImageError, OptionError, SelfTestError
from edgecl_deploy.files import BundleFiles, ReleaseFiles, read_bundle, read_release
from edgecl_deploy.format import Program, check_release
from edgecl_deploy.forms import check_form
from edgecl_deploy.loaded import (
    BATCH,
    LoadedRelease,
    Prediction,
    SelfTest,
    Tally,
    answers,
    failed,
)
from edgecl_deploy.preprocess import ImageSource, prepare
from edgecl_deploy.programs import Form, Scores, load_program

if TYPE_CHECKING:
    from edgecl_deploy.follow import Follower
    from edgecl_deploy.store.store import Store

_PLAIN = ("fused", "dynamic")  # form and slots
Accept = Callable[["Classifier"], "str | None"]


class Classifier:
    """Images in, labels out. Many threads may predict while one swaps."""

    def __init__(
        self, bundle: BundleFiles, engine: Engine, form: str, slots: str, *, verify: bool
    ) -> None:
        self.bundle = bundle
        self.engine = engine
        self._form, self._slots, self._verify = form, slots, verify
        self._swapping = threading.Lock()  # one swap at a time; predictions never take it
        self._loaded: LoadedRelease | None = None
        self._follower: Follower | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        release: str | os.PathLike[str] | None = None,
        *,
        engine: str = "onnxruntime",
        form: str = "fused",
        slots: str = "dynamic",
        threads: int | None = None,
        verify: bool = True,
        accept: Accept | None = None,
    ) -> "Classifier":
        """Open a store, or a bundle with a release; the release's canaries must pass.

        With a store it follows what the updates do: a thread looks at `current` five times a
        second, loads and tests a new release beside the old one, and replaces one reference. A
        release that fails there is reported to the update, which undoes it; the old one goes on.
        `close` it, or use it in a `with` block.

        Args:
            path: The store, or the bundle directory. Nobody may write in a bundle that is open.
            release: The release directory; it is read once. None for a store.
            engine: The name of an engine.
            form: `fused` (one graph) or `staged` (encode, match, classify).
            slots: `dynamic` or, for engines with fixed shapes, `fixed` (staged form only).
            threads: Threads of one run, None for the engine's own choice.
            verify: Hash the weights and the graphs (0.1 s per 100 MB). Without it only their
                sizes are checked. A release is always verified.
            accept: For a store: the application's own test of a new release. It gets a classifier
                of that release, and says what is wrong with it, or None.
        """
        runner = make_engine(engine, threads)
        check_form(form, slots, runner)
        if release is not None:
            classifier = cls(read_bundle(path), runner, form, slots, verify=verify)
            classifier.swap(release)
            return classifier
        from edgecl_deploy.follow import Follower  # a store needs POSIX; a release does not

        store = _store(path)
        classifier = cls(read_bundle(store.config.bundle), runner, form, slots, verify=verify)
        classifier._follower = Follower(classifier, store, accept)
        classifier._follower.begin()
        return classifier

    @classmethod
    def of_files(cls, bundle: str | os.PathLike[str], files: ReleaseFiles) -> "Classifier":
        """Open a bundle with a release that was read already; nothing is tested yet.

        Args:
            bundle: The bundle directory.
            files: The release.
        """
        classifier = cls(read_bundle(bundle), make_engine("onnxruntime"), *_PLAIN, verify=True)
        classifier._loaded = classifier.load(files)
        return classifier

    def close(self) -> None:
        """Stop following a store; predictions still work."""
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.close()

    def __enter__(self) -> "Classifier":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def loaded(self) -> LoadedRelease:
        """The release that answers now.

        Raises:
            OptionError: There is none yet.
        """
        loaded = self._loaded
        if loaded is None:
            raise OptionError("a classifier needs a release", "none", "Use Classifier.open.")
        return loaded

    @property
    def release(self) -> int:
        """Number of the release that answers now."""
        return self.loaded.number

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that it knows now, each once."""
        return self.loaded.labels.names

    def swap(self, release: str | os.PathLike[str]) -> int:
        """Take another release: load, verify, self-test, then replace one reference.

        Predictions go on meanwhile; a call that has begun ends with the release it began with.
        Any failure leaves the release that was there. A release of another program of the bundle
        loads that program's sessions first (a few tenths of a second).

        Args:
            release: The release directory.

        Returns:
            The number of the new release.

        Raises:
            OptionError: It follows a store, which says what it takes.
        """
        if self._follower is not None:
            raise OptionError(
                "a classifier that follows a store takes its releases from there",
                os.fspath(release),
                "Open the bundle with this release instead, or close() this one first.",
            )
        return self.take(read_release(release))

    def take(self, files: ReleaseFiles, accept: Accept | None = None) -> int:
        """Take a release that was read already, like `swap`.

        Args:
            files: The release.
            accept: Another test, beside the canaries.

        Returns:
            The number of the new release.

        Raises:
            SelfTestError: `accept` says that something is wrong.
        """
        with self._swapping:
            loaded = self.load(files)
            loaded.self_test()
            wrong = accept(self._beside(loaded)) if accept is not None else None
            if wrong is not None:
                raise SelfTestError(
                    f"the application must accept release {loaded.number}", wrong, "Undo it."
                )
            self._loaded = loaded  # the switch
            return loaded.number

    def _beside(self, loaded: LoadedRelease) -> "Classifier":
        other = Classifier(self.bundle, self.engine, self._form, self._slots, verify=self._verify)
        other._loaded = replace(loaded, tally=Tally())  # a test is no service
        return other

    def load(self, files: ReleaseFiles) -> LoadedRelease:
        """Bind a release to the sessions of its program; what serves is not touched.

        Args:
            files: The release.
        """
        program = check_release(self.bundle.bundle, files.release, files.packs)
        form = self._form_of(files.release.program, program)
        return LoadedRelease.of(files, program, form, self.bundle.bundle.preprocessing.size)

    def _form_of(self, name: str, program: Program) -> Form:
        current = self._loaded
        if current is not None and current.files.release.program == name:
            return current.form
        if self._verify:
            self.bundle.verify(program, self._form)
        return load_program(self.engine, self.bundle.path, program, self._form, self._slots)

    def self_test(self) -> SelfTest:
        """Run the canaries of the release that answers now.

        Returns:
            How many images there were and the largest error.
        """
        return self.loaded.self_test()

    def scores(self, images: np.ndarray) -> Scores:
        """Run the program on images that are prepared already.

        Args:
            images: uint8 [b, h, w, 3], with the size of the bundle's preprocessing.

        Returns:
            What the program says, one column of scores per classifier row.
        """
        return self.loaded.run(images)

    def predict(self, images: Iterable[ImageSource], top_k: int = 5) -> list[Prediction]:
        """Classify images.

        Args:
            images: Paths, encoded bytes, PIL images, or arrays of uint8 [h, w], [h, w, 3] or
                [h, w, 4]; an array of [b, h, w, 3] is b images. They are taken one by one.
            top_k: How many classes to list per image.

        Returns:
            One prediction per image, in order. An image that cannot be read has an `error` and no
            label; the others are not concerned.

        Raises:
            OptionError: `images` is one image, or `top_k` is not positive.
        """
        if top_k < 1:
            raise OptionError("top_k must be at least 1", str(top_k), "Ask for one class or more.")
        if isinstance(images, (str, bytes, bytearray, os.PathLike)) or (
            isinstance(images, np.ndarray) and images.ndim != 4
        ):
            raise OptionError(
                "predict takes a list of images", type(images).__name__, "Call predict([image])."
            )
        loaded = self.loaded  # once: the whole call is answered by one release
        remaining = iter(images)
        predictions: list[Prediction] = []
        while batch := list(islice(remaining, BATCH)):
            predictions.extend(self._predict_batch(loaded, batch, top_k))
        return predictions

    def _predict_batch(
        self, loaded: LoadedRelease, sources: list[ImageSource], top_k: int
    ) -> Iterator[Prediction]:
        prepared: list[np.ndarray] = []
        errors: dict[int, str] = {}
        for i, source in enumerate(sources):
            try:
                prepared.append(prepare(source, self.bundle.bundle.preprocessing))
            except ImageError as error:
                errors[i] = str(error)
        given: Iterator[Prediction] = iter(())
        if prepared:
            try:
                found = list(answers(loaded, loaded.run(np.stack(prepared)), top_k))
            except DeployError:
                loaded.tally.add(len(prepared), len(prepared))
                raise
            loaded.tally.add(len(found), sum(each.error is not None for each in found))
            given = iter(found)
        for i in range(len(sources)):
            yield failed(loaded, errors[i]) if i in errors else next(given)


def _store(path: str | os.PathLike[str]) -> "Store":
    from edgecl_deploy.store.store import Store, is_store

    if not is_store(path):
        raise OptionError(
            "a classifier needs a store, or a bundle and a release",
            f"{os.fspath(path)} alone, which is no store",
            "Name the release too, or make a store with `edgecl-device init`.",
        )
    return Store.open(path)
