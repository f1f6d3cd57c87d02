"""`floor.json`: the versions that no refresh may go below, even if `tuf/` is lost."""

from dataclasses import asdict, dataclass

from edgecl_deploy.errors import UntrustedError
from edgecl_deploy.manifest.limits import MAX_INTEGER
from edgecl_deploy.store.layout import FLOOR, FLOOR_FORMAT
from edgecl_deploy.store.sealed import seal, unseal

BUILT = 1_795_219_200  # seconds since 1970 at which this code existed: a clock before it is wrong
ROLES = ("root", "timestamp", "snapshot", "targets")
DEVELOPMENT = "x-edgecl-development"  # a field of root.json: its keys are for trying out
SERVES = "What serves is untouched."
TELL = f"{SERVES} Tell the publisher, and look for a broken mirror or proxy."


@dataclass(frozen=True)
class Floor:
    """The state of a channel that no refresh may go below."""

    keys: str  # digest of the ids of the timestamp role's keys
    root: int  # version of root.json
    timestamp: int  # version of timestamp.json; may restart when the keys change (5.3.11)
    refreshed: int  # seconds since 1970, by this device's clock, of the last refresh that held
    signed: int = 0  # seconds since 1970: the latest signed time that a channel has shown

    def to_bytes(self) -> bytes:
        """Write the document."""
        return seal(FLOOR_FORMAT, asdict(self))

    def check(self, found: "Floor") -> None:
        """Refuse a state of the channel that is older than this one.

        Raises:
            UntrustedError: It is older.
        """
        timestamp = self.timestamp if self.keys == found.keys else 0
        for role, least, version in (
            ("root", self.root, found.root),
            ("timestamp", timestamp, found.timestamp),
        ):
            if version < least:
                raise UntrustedError(
                    f"{role}.json must have version {least} or a later one, which was seen before",
                    f"version {version}",
                    TELL,
                )


def parse_floor(data: bytes) -> Floor:
    """Read `floor.json`."""
    fields = unseal(data, FLOOR, FLOOR_FORMAT)
    return Floor(
        fields.sha256("keys"),
        fields.integer("root", 1, MAX_INTEGER),
        fields.integer("timestamp", 1, MAX_INTEGER),
        fields.integer("refreshed", 0, MAX_INTEGER),
        fields.integer("signed", 0, MAX_INTEGER) if fields.has("signed") else 0,
    )
