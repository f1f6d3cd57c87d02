"""How much metadata a device takes of each role, whatever length is signed."""

LARGEST_METADATA = 1_000_000  # bytes of one file of metadata of any other role
_LARGEST = {"root": 64_000, "timestamp": 16_384, "snapshot": 64_000}


def largest(role: str) -> int:
    """Return how many bytes a role's metadata may have."""
    return _LARGEST.get(role, LARGEST_METADATA)
