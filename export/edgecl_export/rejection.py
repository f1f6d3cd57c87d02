"""How sure a device must be that an image is of a class, and what was measured with it."""

from pathlib import Path

from edgecl.learning.runs import Run
from edgecl_deploy.files import INDEX_FILE, read_file
from edgecl_deploy.format import Rejection, parse_index
from edgecl_deploy.manifest import limits
from edgecl_deploy.unknown.rule import checked_alpha
from edgecl_export.errors import PackError
from edgecl_export.pack import RUN


def rejection_of(
    alpha: float | None, source: str | Path | None, packs: Path, tasks: int
) -> Rejection | None:
    """Return what a release has of it; None where nobody asks for anything.

    Args:
        alpha: the share of the images of a class that may be called unknown; None for the usual.
        source: the folder of the run, whose figures the release brings.
        packs: the folder of its packs.
        tasks: how many of them are released; a run has none for a task that was forgotten.

    Raises:
        PackError: if the run is not that of the packs, or did not measure any.
    """
    if source is None:
        return None if alpha is None else Rejection(checked_alpha(alpha))
    run = Run.open(Path(source))
    index = parse_index(read_file(packs / INDEX_FILE, limits.MAX_MANIFEST))
    present = run.present()
    task = present[tasks - 1] if tasks <= len(present) else None
    evaluation = None if task is None else run.evaluation(task)
    if index.extra.get(RUN) != run.header.get("id"):
        raise PackError(
            f"The figures must be those of the run of {packs}, got {source}. Name that run."
        )
    if evaluation is None or evaluation.unknown is None:
        raise PackError(
            f"The figures after {tasks} tasks must be in {source}, got none: its method changes "
            "features with every task, it had no test images, or an older version made it. Leave "
            "--figures out."
        )
    measured = evaluation.unknown
    if alpha is not None and alpha != measured.alpha:
        raise PackError(
            f"The figures of {source} are at alpha {measured.alpha:g}, got --unknown-alpha "
            f"{alpha:g}. Leave one of the two out."
        )
    return Rejection(measured.alpha, measured.numbers())
