"""Which extra of edgecl-export brings a package that is not installed."""

from collections.abc import Iterator
from contextlib import contextmanager

from edgecl_export.errors import MissingPackageError

WORKSTATION = ("edgecl", "torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime")


@contextmanager
def explain_missing() -> Iterator[None]:
    """Name the extra where a package of the workstation is missing.

    Raises:
        MissingPackageError: if one of them is.
        ModuleNotFoundError: if it is another one.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in WORKSTATION:
            raise
        raise MissingPackageError(
            f"Exporting a run needs the package {package}, found none. Install it with "
            "`pip install 'edgecl-export[torch]'`; a machine that signs releases does without."
        ) from error
