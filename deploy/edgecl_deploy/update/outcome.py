"""The outcome of an update: one word, one exit status, one line."""

import enum
from dataclasses import dataclass, field
from typing import Any

from edgecl_deploy.stopping import STATUS

FACTORY_KEPT = 4  # a new release serves, and the factory's should be erased and cannot be


class Outcome(enum.Enum):
    """The outcome of an update. The number is the exit status of `edgecl-device update`."""

    UPDATED = 0  # a new release serves
    UP_TO_DATE = 10  # the channel has nothing newer
    WAITING = 11  # the roll-out has not reached this device
    HALTED = 12  # the publisher stopped the roll-out
    PINNED = 13  # the operator pinned another release
    DENIED = 14  # this release failed here before
    INHIBITED = 15  # fetched and tested; the application asked to wait
    BUSY = 16  # another process is changing the store
    STOPPED = STATUS  # the process was asked to stop; the next update goes on
    INCOMPATIBLE = 20  # made for another backbone or bundle
    OFFLINE = 21  # the channel cannot be reached
    STALE = 22  # the channel's signatures have expired
    UNTRUSTED = 23  # a signature, version, digest or length does not hold
    NO_SPACE = 24  # the disk is too full
    REFUSED = 25  # signed, yet malformed: denied from now on
    PRETEST_FAILED = 26  # the self-test failed before it served: denied from now on
    ROLLED_BACK = 27  # it failed on trial; the release before it serves, and it is denied
    FAILED = 28  # this device or its application failed, or the update went in circles

    @property
    def word(self) -> str:
        """The name in `--json` and in the log."""
        return self.name.lower().replace("_", "-")


@dataclass
class Result:
    """The report of one update.

    Attributes:
        outcome: The outcome.
        reason: One line for people.
        release: Number of the release that serves now, None if there is none.
        offered: Number of the channel's release, if it was reached.
        fetched: Bytes that came over the wire, metadata included, headers not.
        seconds: How long each phase took.
        clock: `ok`, or `behind`: then freshness is unknown.
        development: Whether the channel's root is for development only.
        factory_kept: The number of the factory's release, where the channel wants it erased and a
            new release was installed: it cannot be.
    """

    outcome: Outcome
    reason: str
    release: int | None = None
    offered: int | None = None
    fetched: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    clock: str = "ok"
    development: bool = False
    factory_kept: int | None = None

    @property
    def status(self) -> int:
        """The exit status of `edgecl-device update`."""
        return self.outcome.value if self.factory_kept is None else FACTORY_KEPT

    def to_json(self) -> dict[str, Any]:
        """Return the document that `--json` prints, that is logged and that the hook gets."""
        return {
            "outcome": self.outcome.word,
            "reason": self.reason,
            "release": self.release,
            "offered": self.offered,
            "fetched": self.fetched,
            "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
            "clock": self.clock,
            "development": self.development,
            **({} if self.factory_kept is None else {"factory_kept": self.factory_kept}),
        }
