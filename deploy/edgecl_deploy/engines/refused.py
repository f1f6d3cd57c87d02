"""The error of an engine whose library refuses something."""

from collections.abc import Iterator
from contextlib import contextmanager

from edgecl_deploy.errors import DeployError, EngineError, one_line

REPORT = "Run `edgecl export verify` on the bundle, and report it if that passes."


@contextmanager
def refusals(must: str, action: str = REPORT) -> Iterator[None]:
    """Turn whatever a library raises into our error.

    Args:
        must: What must hold.
        action: What to do next.

    Raises:
        DeployError: One of ours, as it is.
        EngineError: The library raised something.
    """
    try:
        yield
    except DeployError:
        raise
    except Exception as error:  # the libraries have no common root for their exceptions
        raise EngineError(must, one_line(error), action) from error


def arrays_of(name: str) -> str:
    """Return what must hold when a graph runs.

    Args:
        name: Of the graph.
    """
    return f"{name} must run on the arrays that its bundle declares"
