"""The release that answers now, and how another one takes its place.

Laws: everything that a prediction needs is reached from ONE reference to an object that never
changes; a call reads that reference once; a new release is loaded, checked and self-tested next to
the old one, and then the reference is replaced. Whatever fails before that leaves the old release.
A release that cannot run in the precision that was asked for runs in float32 (ADR 37).
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol, TypeAlias

from edgecl_deploy.batches import PaddedForm
from edgecl_deploy.engines import FLOAT32, Engine
from edgecl_deploy.errors import AcceptError, DeployError, OptionError, SelfTestError, one_line
from edgecl_deploy.files import BundleFiles, ReleaseFiles, is_passing
from edgecl_deploy.format import MADE, Bundle, Release
from edgecl_deploy.forms import Mode
from edgecl_deploy.loaded import LoadedRelease, SelfTest
from edgecl_deploy.manifest.precisions import files_of
from edgecl_deploy.programs import Form, load_program

_LOG = logging.getLogger(__name__)

Judge: TypeAlias = Callable[[LoadedRelease], "str | None"]


class Overlays(Protocol):
    """What puts the classes of this device on a release."""

    def over(self, base: LoadedRelease) -> LoadedRelease:
        """Return the release with them, or the release alone if that fails.

        Args:
            base: A release that has passed its tests.
        """


class Serving:
    """One bundle and the release of it that answers. Many threads may read while one replaces it.

    Attributes:
        loaded: The release that answers now; the first `take` or `serve` sets it.
        overlays: What puts the classes of this device on every release; None without them.
        alpha: The share of known images that may be called unknown; None for that of the release.
    """

    loaded: LoadedRelease
    overlays: Overlays | None = None
    alpha: float | None = None

    def __init__(
        self, bundle: BundleFiles, engine: Engine, mode: Mode = Mode(), *, verify: bool = True
    ) -> None:
        mode.check(engine)
        _check_bundle(bundle.bundle, mode.precision)
        self.bundle = bundle
        self.preprocessing = bundle.preprocessing
        self.engine = engine
        self.mode = mode
        self._verify = verify
        self._taking = threading.Lock()  # one release at a time; predictions never take it
        self._sessions: dict[tuple[str, str], Form] = {}  # that answer now: program and precision

    def serve(self, loaded: LoadedRelease) -> None:
        """Let a release answer from now on, without a test."""
        self._sessions = {(loaded.files.release.program, loaded.precision): loaded.form}
        self.loaded = loaded  # the switch

    @contextmanager
    def resting(self) -> Iterator[LoadedRelease]:
        """Take no other release meanwhile; yields the one that answers, alone. It goes on."""
        with self._taking:
            yield self.loaded.alone

    def dress(self) -> None:
        """Put the classes of this device on the release that answers, as they are now."""
        with self.resting() as base:
            self.serve(self._dressed(base))

    def look(self) -> None:
        """Take what other processes have written of this device's classes."""

    def _dressed(self, base: LoadedRelease) -> LoadedRelease:
        return base if self.overlays is None else self.overlays.over(base)

    def take(self, files: ReleaseFiles, judge: Judge | None = None, *, strict: bool = False) -> int:
        """Load and test a release, then let it answer.

        Args:
            files: The release, read and verified.
            judge: A test after the canaries; it returns what is wrong with the release, or None.
            strict: Refuse a release that cannot run in the precision that was asked for.

        Returns:
            The number of the release.

        Raises:
            SelfTestError: The judge found something wrong.
            AcceptError: The judge itself broke.
        """  # noqa: DOC502  raised by `_asked`
        with self._taking:
            loaded = self._tested(files, strict=strict)
            wrong = None if judge is None else _asked(judge, loaded)
            if wrong is not None:
                raise SelfTestError(
                    f"the application must accept release {loaded.number}", wrong, "Undo it."
                )
            self.serve(self._dressed(loaded))
            return loaded.number

    def in_engine(self, engine: Engine, mode: Mode) -> "Serving":
        """Return what would serve the same bundle in another engine; it has no release yet."""
        return Serving(self.bundle, engine, mode, verify=self._verify)

    def change(self, other: "Serving", wanted: Callable[[], bool], *, strict: bool) -> bool:
        """Answer with another engine, once the release that answers has passed its tests in it.

        Releases are taken meanwhile, in the engine that answers; then the newest is tested in the
        other one, too.

        Args:
            other: From `in_engine`.
            wanted: Asked before the change, since an engine may compile for minutes.
            strict: Refuse it if the release cannot run in the precision of the mode.

        Returns:
            Whether it was still wanted; else nothing changed.
        """
        while True:
            files = self.loaded.alone.files
            other.serve(other._tested(files, strict=strict))
            with self._taking:
                if not wanted():
                    return False
                base = self.loaded.alone
                if base.files is files:
                    self.engine, self.mode = other.engine, other.mode
                    loaded = replace(other.loaded, tally=base.tally, alpha=self.alpha)
                    self.serve(self._dressed(loaded))
                    return True

    def _tested(self, files: ReleaseFiles, *, strict: bool) -> LoadedRelease:
        """Load a release in the precision that was asked for, else in float32.

        Raises:
            DeployError: It cannot run in that precision, and shall not run in another.
        """
        wanted, number = self.mode.precision, files.release.number
        why: DeployError | None = _lack(self.bundle.bundle, files.release, wanted)
        if why is not None and strict:
            raise why
        if why is None:
            try:
                loaded = self.load(files)
                return replace(loaded, tested=loaded.self_test())
            except DeployError as error:
                if strict or wanted == FLOAT32 or is_passing(error):
                    raise
                why = error
        loaded = self.load(files, FLOAT32)
        tested = loaded.self_test()
        reason = one_line(why)
        _LOG.warning("precision-fallback: release %s answers in float32: %s", number, reason)
        return replace(loaded, fallback=reason, tested=tested)

    def load(self, files: ReleaseFiles, precision: str | None = None) -> LoadedRelease:
        """Bind a release to the sessions of its program; what answers now is not touched.

        Args:
            files: The release, read and verified.
            precision: One that its program has; None for that of the mode. No licence is asked for.
        """
        precision = precision or self.mode.precision
        program, name = self.bundle.check(files), files.release.program
        form = self._sessions.get((name, precision)) or self._open(name, precision)
        loaded = LoadedRelease.of(files, program, form, self.preprocessing.size, precision)
        return replace(loaded, alpha=self.alpha)

    def _open(self, name: str, precision: str) -> Form:
        mode = replace(self.mode, precision=precision)
        build = self.bundle.bundle.build(name, precision)
        if self._verify:
            self.bundle.verify([build], mode.form)
        form = load_program(
            self.engine, self.bundle.path, build.program, mode, build.weights, build.group
        )
        least, most = self.engine.capabilities().batch
        if mode.batch is not None:
            least, most = mode.batch, mode.batch
        return form if (least, most) == (0, None) else PaddedForm(form, least, most)

    def self_test(self) -> SelfTest:
        """Run the canaries of the release that answers now."""
        return self.loaded.self_test()


def _check_bundle(bundle: Bundle, precision: str) -> None:
    """Check that some program of a bundle has a precision.

    Raises:
        OptionError: None has.
    """
    found = sorted({each for name in bundle.programs for each in bundle.precisions(name)})
    if precision not in found:
        raise OptionError(
            f"the bundle must have the variant {precision}",
            f"one with {', '.join(found)}",
            f"Leave precision out{_or_made(precision)}.",
        )


def _or_made(precision: str) -> str:
    made = MADE.get(files_of(precision))
    return "" if made is None else f", or run {made} on the bundle"


def _lack(bundle: Bundle, release: Release, precision: str) -> OptionError | None:
    """Return why a release may not run in a precision, None if it may."""
    if precision == FLOAT32:
        return None
    has = bundle.precisions(release.program) if release.program in bundle.programs else (precision,)
    if precision not in has:
        return OptionError(
            f"the program {release.program} of the bundle must have the variant {precision}",
            f"one with {', '.join(has)}",
            f"Leave precision out{_or_made(precision)}.",
        )
    if release.licence(precision) is None:
        others = [] if release.canaries is None else sorted(release.canaries.variants)
        return OptionError(
            f"release {release.number} must have a licence for {precision}",
            f"one for {', '.join([FLOAT32, *others])}",
            f"Leave precision out, or export the release with `--precision {precision}`.",
        )
    return None


def _asked(judge: Judge, loaded: LoadedRelease) -> str | None:
    """Ask the application about a release.

    Raises:
        AcceptError: Its test broke, which says nothing about the release.
    """
    try:
        return judge(loaded)
    except Exception as error:  # whatever the application's code raises
        raise AcceptError(
            f"the application's test must return what is wrong with release {loaded.number}, "
            "or None",
            one_line(error),
            "Mend the function that was passed as `accept`.",
        ) from error
