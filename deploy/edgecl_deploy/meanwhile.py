"""An engine that compiles while another one answers.

Law: what answers goes on until the release has passed its tests in the other engine; whatever
fails before that leaves it as it is.
"""

import logging
import threading
import weakref

from edgecl_deploy.errors import one_line
from edgecl_deploy.serving import Serving

_LOG = logging.getLogger(__name__)


class Preparation:
    """Makes an engine ready in a thread of its own, and lets it answer.

    Args:
        serving: What answers.
        other: The same in the engine that is made ready.
        strict: As for `Serving.change`.

    Attributes:
        why: Why the engine does not answer yet, or will not; empty once it does.
    """

    def __init__(self, serving: Serving, other: Serving, *, strict: bool) -> None:
        self.why = "the engine that was asked for is being made ready"
        self._strict = strict
        self._ended = False
        self._thread = threading.Thread(
            target=self._run,
            args=(weakref.ref(serving), other),
            name="edgecl-prepare",
            daemon=True,
        )
        self._thread.start()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end of it.

        Args:
            timeout: Seconds to wait, None for as long as it takes.

        Returns:
            Whether it has ended.
        """
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def end(self) -> None:
        """Leave the engine that answers; a compilation that runs is not waited for."""
        self._ended = True

    def _run(self, serving: "weakref.ref[Serving]", other: Serving) -> None:
        held = serving()
        if held is None:
            return
        try:
            changed = held.change(other, lambda: not self._ended, strict=self._strict)
        except Exception as error:  # whatever a library raises: the other engine goes on
            self.why = f"the engine that was asked for failed: {one_line(error)}"
            _LOG.warning("engine-fallback: the one that answers goes on: %s", one_line(error))
            return
        self.why = "" if changed else "the classifier was closed before its engine was ready"
