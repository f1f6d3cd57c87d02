"""Every error that this package raises, as a tree, grouped by who must act.

```
DeployError
├── the operator: a file was damaged on its way, does not fit this device, or the call is wrong
│   ├── OptionError            a parameter of a call or of a command
│   ├── EngineMissingError     the engine's package is not installed
│   ├── MissingFileError       a manifest names a file that is not there
│   ├── DigestError            the bytes are not those that the digest names
│   ├── SizeError              a file is shorter or longer than declared
│   ├── SymlinkError           a link, a folder or a device where a plain file belongs
│   ├── TargetExistsError      a release would overwrite another one
│   ├── FormatVersionError     a later (or unknown) version of a format
│   ├── MismatchError          sound files that do not belong together
│   │   ├── WrongBackboneError     the pack was made for another backbone
│   │   ├── WrongProgramError      the bundle has no such program
│   │   └── WrongInterfaceError    the program exists, its learned inputs differ
│   ├── SelfTestError          the canaries do not give the expected scores
│   ├── AcceptError            the application's own test of a release broke
│   ├── StoreError             the folder is no store, is damaged, or has no release
│   ├── UpdateError            no update was installed; what serves is untouched
│   │   ├── BusyError              another process is changing the store
│   │   ├── DeviceError            this device failed its own test; no release is blamed
│   │   ├── OfflineError           the channel cannot be reached, or is too slow
│   │   ├── StoppedError           the process was asked to stop during a download
│   │   ├── StaleError             the channel's signatures have expired (or the clock is wrong)
│   │   ├── UntrustedError         a signature, version, digest or length does not hold
│   │   └── NoSpaceError           the disk is too full
│   ├── EnrolError             no class was enrolled or changed; what serves is untouched
│   │   ├── EnrolmentUnsupportedError  the program cannot take a class on a device
│   │   ├── StateMissingError      the release has no factor of its ridge head, or it is not here
│   │   ├── NameTakenError         another class has this name, or one that people cannot tell apart
│   │   ├── NotEnoughError         no image of the class can be read
│   │   └── LocalTestError         the class would take images that the release's self-test knows
│   ├── StatisticsError        sums that no images have, or that the run cannot learn
│   ├── ImageError             one image cannot be read; never an error of the process
│   └── RequestError           a request to the server that is wrong, or comes at a wrong time
├── the author of the pack, release or bundle: the file itself breaks the format
│   ├── ManifestError          malformed JSON, a missing field, a wrong type or range
│   │   ├── DuplicateKeyError      the same key twice in one JSON object
│   │   ├── DuplicateClassError    a class twice in a pack, or again in a later pack
│   │   └── PathError              a name that could lead out of the directory
│   ├── LimitError             over a limit of docs/format.md
│   ├── TensorFileError        a safetensors header that is truncated, oversized or inconsistent
│   └── TensorError            a tensor that differs from its declaration
│       ├── MissingTensorError     declared by the program, held by no pack
│       ├── ExtraTensorError       in a pack, declared by no program
│       ├── TensorDtypeError
│       ├── TensorShapeError
│       ├── TensorAxesError
│       ├── GeneratorError         an unknown generator, or one that makes another tensor
│       └── NonFiniteError         NaN or infinity among the weights
└── us: the program and the runtime disagree
    └── EngineError            a graph that does not load, run, or keep its contract
```

Every message has three parts: what must hold, what was found, what to do.
"""

_LONGEST_SHOWN = 80  # characters of an untrusted value that a message may repeat


class DeployError(Exception):
    """The root of all errors of this package.

    Attributes:
        must: What must hold.
        found: What was found instead.
        action: What to do next.
    """

    def __init__(self, must: str, found: str, action: str) -> None:
        super().__init__(must, found, action)
        self.must = must
        self.found = found
        self.action = action

    def __str__(self) -> str:
        return f"{self.must}; found {self.found}. {self.action}"


class OptionError(DeployError):
    """A parameter of a call or a command is wrong."""


class EngineMissingError(DeployError):
    """The package of an engine is not installed."""


class MissingFileError(DeployError):
    """A file that a manifest names is not there."""


class DigestError(DeployError):
    """The bytes are not those that the digest names."""


class SizeError(DeployError):
    """A file is shorter or longer than its manifest declares."""


class SymlinkError(DeployError):
    """A link, folder or device is in the place of a plain file."""


class TargetExistsError(DeployError):
    """A directory to be written already holds something else."""


class FormatVersionError(DeployError):
    """The file has a version of the format that this release does not read."""


class MismatchError(DeployError):
    """Sound files that do not belong together."""


class WrongBackboneError(MismatchError):
    """The pack or release was made for another backbone."""


class WrongProgramError(MismatchError):
    """The bundle has no such program, or the packs name different ones."""


class WrongInterfaceError(MismatchError):
    """The program exists, but its learned inputs are not those of the pack."""


class SelfTestError(DeployError):
    """The canaries of a release do not give the scores that it expects."""


class AcceptError(DeployError):
    """The application's own test of a release broke; it says nothing about the release."""


class StoreError(DeployError):
    """The folder is no store, is damaged, or has no release."""


class UpdateError(DeployError):
    """No update was installed; what serves is untouched."""


class BusyError(UpdateError):
    """Another process is changing the store."""


class DeviceError(UpdateError):
    """This device failed while it tested a release, so nothing is said about the release.

    Attributes:
        counts: Whether the start counts among the few that a release has.
    """

    def __init__(self, must: str, found: str, action: str, *, counts: bool = False) -> None:
        super().__init__(must, found, action)
        self.counts = counts


class OfflineError(UpdateError):
    """The channel cannot be reached, or is too slow."""


class StoppedError(UpdateError):
    """The process was asked to stop during a download; the next update goes on with it."""


class StaleError(UpdateError):
    """The channel's signatures have expired, or this device's clock is wrong."""


class UntrustedError(UpdateError):
    """A signature, a version, a digest or a length of the channel does not hold."""


class NoSpaceError(UpdateError):
    """The disk is too full for the update."""


class EnrolError(DeployError):
    """No class was enrolled or changed; what serves is untouched."""


class EnrolmentUnsupportedError(EnrolError):
    """The program cannot take a class on a device."""


class StateMissingError(EnrolError):
    """The release brings nothing to solve its head again, or it was not fetched."""


class NameTakenError(EnrolError):
    """Another class has this name, or one that people cannot tell apart."""


class NotEnoughError(EnrolError):
    """No image of the class can be read."""


class LocalTestError(EnrolError):
    """The class would take images that the self-test of the release knows as another class."""


class StatisticsError(DeployError):
    """Statistics that no images have, or that cannot be made or learned."""


class ImageError(DeployError):
    """One image cannot be read; the others are not concerned."""


class RequestError(DeployError):
    """A request to the server is wrong, or comes at a wrong time.

    Attributes:
        status: Of the answer, as HTTP has them.
    """

    def __init__(self, status: int, must: str, found: str, action: str) -> None:
        super().__init__(must, found, action)
        self.status = status


class ManifestError(DeployError):
    """A manifest is not valid JSON, lacks a field, or has a wrong type or range."""


class DuplicateKeyError(ManifestError):
    """The same key occurs twice in one JSON object."""


class DuplicateClassError(ManifestError):
    """A class occurs twice in a pack, or again in a later pack."""


class PathError(ManifestError):
    """A file name is not a plain name inside its directory."""


class LimitError(DeployError):
    """A size or a count is over a limit of the format."""


class TensorFileError(DeployError):
    """A safetensors file whose header is truncated, oversized or inconsistent."""


class TensorError(DeployError):
    """A tensor differs from its declaration."""


class MissingTensorError(TensorError):
    """A tensor that the program declares is in no pack."""


class ExtraTensorError(TensorError):
    """A tensor that no program declares."""


class TensorDtypeError(TensorError):
    """A tensor has another dtype than declared."""


class TensorShapeError(TensorError):
    """A tensor has another shape than declared."""


class TensorAxesError(TensorError):
    """A tensor has other axes, or is appended on another axis, than declared."""


class GeneratorError(TensorError):
    """The device cannot generate a tensor, or generates another one."""


class NonFiniteError(TensorError):
    """A weight is NaN or infinite."""


class EngineError(DeployError):
    """A graph does not load, does not run, or breaks its contract."""


def shown(value: object) -> str:
    """Return an untrusted value for a message: one line, quoted, of a bounded length.

    Args:
        value: Anything that was read from a file or passed by a caller.
    """
    if isinstance(value, (dict, list)):
        return f"a JSON {'object' if isinstance(value, dict) else 'list'} of {len(value)}"
    text = ascii(value[: _LONGEST_SHOWN + 1] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def one_line(error: BaseException) -> str:
    """Return the text of a library's exception on one bounded line."""
    return f"{type(error).__name__}: {bounded(str(error)) or 'no message'}"


def bounded(text: str) -> str:
    """Return a library's text on one line, cut where it is too long."""
    return " ".join(text.split())[: 4 * _LONGEST_SHOWN]
