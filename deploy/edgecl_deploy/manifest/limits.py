"""The limits of the format (docs/format.md, "Limits"), checked before memory is taken."""

MAX_PACK_BASE = 64 * 1024  # bytes of one packs/<id>.json beside its names
MAX_PACK_MANIFEST = 8 * 1024 * 1024  # bytes of it, with all its names
MAX_MANIFEST = 1024 * 1024  # bytes of bundle.json, release.json, index.json
MAX_CHANNEL = 256 * 1024  # bytes of a channel's manifest
MAX_NOTES = 4000  # characters of a person's notes on a release
MAX_DEPTH = 12  # nested objects and lists in a manifest
MAX_HEADER = 64 * 1024  # bytes of the header of a safetensors file: the rest is in its manifest
MAX_BLOB = 256 * 1024 * 1024  # bytes of one blob
MAX_FACTOR = 64 * 1024 * 1024  # bytes of the factor of a ridge head
MAX_STATISTICS = 64 * 1024 * 1024  # bytes of the statistics that a device sends
MAX_FACTOR_ROWS = 5792  # of its square matrix: those that the bytes hold
MAX_GENERATED = 64 * 1024 * 1024  # bytes of a tensor that a generator makes
MAX_BITS = 64 * 1024 * 1024  # bytes of a tensor that travels in bits, once it is made
MAX_GRAPH = 512 * 1024 * 1024  # bytes of one .onnx file (its weights are elsewhere)
MAX_WEIGHTS = 16 * 1024**3  # bytes of the weights file of a bundle
MAX_MANIFESTS = 64 * 1024 * 1024  # bytes of release.json and its packs' manifests together
MAX_LEARNED = 1024**3  # bytes of all learned tensors of a release, as the graph takes them
MAX_RANK = 8  # axes of a tensor
MAX_AXIS = 2**31 - 1  # size of one axis
MAX_INTEGER = 2**53 - 1  # the largest whole number that every reader of JSON keeps exactly
MAX_TENSORS = 1024  # tensors in one file, or declared by one program
MAX_PROGRAMS = 64  # programs in one bundle
MAX_VARIANTS = 8  # of a bundle, a program or the canaries of a release
MAX_PACKS = 4096  # packs in one release
MAX_ROWS = 65536  # classifier rows of one pack
MAX_BRANCHES = 256  # injected passes of one image
MAX_CLASS_NAME = 200  # characters
MAX_NAME_BYTES = 4 * MAX_CLASS_NAME + 3  # of a name in a manifest: UTF-8, quotes, a comma
MAX_VALUES = 4 * MAX_ROWS  # commas of a manifest, inside of texts as well
MAX_OPENED = 64 * 1024  # of each: brackets, braces and backslashes of a manifest
MAX_MERGES = 8 * 1024 * 1024  # bytes of the merges of a byte-pair encoding
MAX_CONTEXT = 4096  # tokens of a text
MAX_TEMPLATES = 1024  # of a text program
MAX_SIDE = 4096  # pixels of a side that preprocessing may ask for


def pack_manifest(names: int) -> int:
    """Return how many bytes the manifest of a pack may have.

    Args:
        names: How many it lists: its rows, and those of them that are known.
    """
    return min(MAX_PACK_BASE + names * MAX_NAME_BYTES, MAX_PACK_MANIFEST)
