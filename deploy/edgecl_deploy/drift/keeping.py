"""The file of a watch, in the local folder of a store.

Laws: one process writes it, the first that has something to write; it is written whole, once a
minute at most and when an alarm is given; what a crash loses only makes an alarm later; what is
damaged begins anew; to remove the file is to acknowledge an alarm.
"""

import logging
import os
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edgecl_deploy.drift.pictures import FOLDER, has_pictures, read_pictures, write_pictures
from edgecl_deploy.drift.state import LARGEST, Mark, State, parse_state
from edgecl_deploy.drift.watch import Settings, Watch
from edgecl_deploy.enrol.local import Local
from edgecl_deploy.errors import BusyError, DeployError, one_line
from edgecl_deploy.files import read_file
from edgecl_deploy.manifest.whole import write_whole
from edgecl_deploy.store.locking import lock_file, taken

NAME, LOCK = "drift.json", "drift.lock"
EVERY = 60.0  # seconds between two writes
_PATIENCE = 1.0  # seconds until the next try, while the folder is being written
_MODE = 0o660  # of the group of the store: its owner may acknowledge an alarm
_LOG = logging.getLogger(__name__)


def read_drift(folder: Path) -> State | None:
    """Read what was remembered in a local folder; None if there is nothing, or nothing whole."""
    with suppress(DeployError, OSError):
        return parse_state(read_file(folder / NAME, LARGEST))
    return None


def acknowledge(folder: Path) -> bool:
    """Take an alarm back: whoever watches begins anew within a second; no picture stays.

    Args:
        folder: The local folder.

    Returns:
        Whether there was anything to take back.
    """
    if not os.path.lexists(folder / NAME) and not has_pictures(folder):
        return False
    local = Local(folder)
    with local.lock():
        local.disk.remove(folder / NAME)
        write_pictures(folder, ())
    local.journal.write("drift-acknowledged", time.time())
    return True


class Keeper:
    """Keeps what a watch remembers.

    Args:
        watch: The watch.
        folder: The local folder of a store.
        settings: Returns what the operator decided; asked once a minute.
        clock: Seconds that never go back.
        answering: Returns what answers; None lets the next image tell.
    """

    def __init__(
        self,
        watch: Watch,
        folder: Path,
        settings: Callable[[], Settings],
        clock: Callable[[], float] = time.monotonic,
        answering: Callable[[], Mark] | None = None,
    ) -> None:
        self._watch, self._folder, self._clock = watch, folder, clock
        self._settings, self._answering = settings, answering
        self._local = Local(folder)
        self._release: Callable[[], object] | None = None  # lets the lock go, once it is ours
        self._next = clock() + EVERY
        self._warned = False
        self._adjust()
        self._tried: State | None = None  # that was to be written last, or was read
        self._there = self._go_on()

    def _go_on(self) -> bool:
        """Go on from what the file has; return whether it has anything."""
        state = read_drift(self._folder)
        if state is not None:
            self._watch.resume(state, read_pictures(self._folder))
        self._read = self._tried = state
        return state is not None

    def _adjust(self) -> None:
        with suppress(DeployError, OSError):  # config.json, for example, is being repaired
            self._watch.settings = self._settings()

    def look(self) -> None:
        """Write what is new if it is time, and notice that an alarm was acknowledged.

        It raises nothing: what cannot be kept is logged once.
        """
        try:
            self._look()
        except Exception as error:  # whatever it is, the release that answers is not to blame
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            _LOG.warning("drift-unkept: %s cannot be written: %s", NAME, one_line(error))

    def _look(self) -> None:
        there = os.path.lexists(self._folder / NAME)
        if self._there and not there:
            self._watch.acknowledge()
            self._tried, self._next = None, self._clock() + EVERY
        self._there = there
        if self._clock() >= self._next:
            self._adjust()
            self._next = self._clock() + EVERY
        elif not self._urgent():
            return
        self._write()

    def _urgent(self) -> bool:
        """Return whether an alarm was given since the last try to write."""
        state, last = self._watch.state, self._tried
        return state is not None and any(
            each.alarm is not None
            and (last is None or last.mark != state.mark or last.tracks[name].alarm is None)
            for name, each in state.tracks.items()
        )

    def close(self) -> None:
        """Write what is new, and let another process write from now on; it raises nothing."""
        if self._release is None:  # another process wrote until now; it may have ended
            self._tried = self._read
        try:
            self._write()
        except Exception as error:  # as in `look`
            self._warn(error)
        if self._release is not None:
            self._release()
            self._release = None

    def _write(self) -> None:
        if self._answering is not None:
            self._watch.follow(self._answering())  # of the release before nothing is written
        state, before = self._watch.state, self._tried
        if state is None or state == before or not (state.images or self._there):
            return  # what is kept of a release before goes as soon as another one answers
        path = self._folder / NAME
        self._tried = state
        try:
            with self._local.lock(0.0):
                first = self._release is None
                if not self._ours() or (self._there and not os.path.lexists(path)):
                    return  # another process writes; or it was acknowledged just now
                if first and read_drift(self._folder) != self._read and self._go_on():
                    return  # from where the process ended that wrote until now
                write_whole(path, state.to_bytes(), mode=_MODE, durable=False)
                self._there = True
                pictures = self._watch.pictures
                if pictures:
                    self._local.disk.folder(self._folder / FOLDER)
                write_pictures(self._folder, pictures)
        except BusyError:
            self._tried, self._next = before, self._clock() + _PATIENCE

    def _ours(self) -> bool:
        if self._release is None:
            handle = lock_file(self._folder / LOCK, _MODE)
            if not taken(handle):
                os.close(handle)
                return False
            self._release = weakref.finalize(self, os.close, handle)
        return True
