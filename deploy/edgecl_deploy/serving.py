"""The release that answers now, and how another one takes its place.

Laws: everything that a prediction needs is reached from ONE reference to an object that never
changes; a call reads that reference once; a new release is loaded, checked and self-tested next to
the old one, and then the reference is replaced. Whatever fails before that leaves the old release.
"""

import threading
from collections.abc import Callable
from typing import TypeAlias

from edgecl_deploy.batches import PaddedForm
from edgecl_deploy.engines import Engine
from edgecl_deploy.errors import AcceptError, SelfTestError, one_line
from edgecl_deploy.files import BundleFiles, ReleaseFiles
from edgecl_deploy.format import Program
from edgecl_deploy.forms import Mode
from edgecl_deploy.loaded import LoadedRelease, SelfTest
from edgecl_deploy.programs import Form, load_program

Judge: TypeAlias = Callable[[LoadedRelease], "str | None"]


class Serving:
    """One bundle and the release of it that answers. Many threads may read while one replaces it.

    Attributes:
        loaded: The release that answers now; the first `take` or `serve` sets it.
    """

    loaded: LoadedRelease

    def __init__(
        self, bundle: BundleFiles, engine: Engine, mode: Mode = Mode(), *, verify: bool = True
    ) -> None:
        mode.check(engine)
        self.bundle = bundle
        self.preprocessing = bundle.preprocessing
        self.engine = engine
        self.mode = mode
        self._verify = verify
        self._taking = threading.Lock()  # one release at a time; predictions never take it
        self._sessions: dict[str, Form] = {}  # of the program that answers now, by its name

    def serve(self, loaded: LoadedRelease) -> None:
        """Let a release answer from now on, without a test."""
        self._sessions = {loaded.files.release.program: loaded.form}
        self.loaded = loaded  # the switch

    def take(self, files: ReleaseFiles, judge: Judge | None = None) -> int:
        """Load and test a release, then let it answer.

        Args:
            files: The release, read and verified.
            judge: A test after the canaries; it returns what is wrong with the release, or None.

        Returns:
            The number of the release.

        Raises:
            SelfTestError: The judge found something wrong.
            AcceptError: The judge itself broke.
        """  # noqa: DOC502  raised by `_asked`
        with self._taking:
            loaded = self.load(files)
            loaded.self_test()
            wrong = None if judge is None else _asked(judge, loaded)
            if wrong is not None:
                raise SelfTestError(
                    f"the application must accept release {loaded.number}", wrong, "Undo it."
                )
            self.serve(loaded)
            return loaded.number

    def load(self, files: ReleaseFiles) -> LoadedRelease:
        """Bind a release to the sessions of its program; what answers now is not touched."""
        program = self.bundle.check(files)
        form = self._sessions.get(files.release.program) or self._open(program)
        return LoadedRelease.of(files, program, form, self.preprocessing.size)

    def _open(self, program: Program) -> Form:
        if self._verify:
            self.bundle.verify(program, self.mode.form)
        weights = self.bundle.bundle.weights
        form = load_program(self.engine, self.bundle.path, program, self.mode, weights)
        least, most = self.engine.capabilities().batch
        if self.mode.batch is not None:
            least, most = self.mode.batch, self.mode.batch
        return form if (least, most) == (0, None) else PaddedForm(form, least, most)

    def self_test(self) -> SelfTest:
        """Run the canaries of the release that answers now."""
        return self.loaded.self_test()


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
