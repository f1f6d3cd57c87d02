"""What runs programs on this device: as a caller asks, or as `edgecl-device tune` measured it.

Law: a measurement counts only for the bundle, the processor and the version of the engine that it
was made with; otherwise, and where nothing was measured, float32 runs in the default engine.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecl_deploy.engines import FLOAT32, Artefacts, Engine, make_engine
from edgecl_deploy.engines.processor import cpu_name
from edgecl_deploy.errors import DeployError, EngineMissingError
from edgecl_deploy.files import read_file
from edgecl_deploy.forms import AUTO, MAX_BATCH, Mode
from edgecl_deploy.manifest.precisions import PRECISIONS
from edgecl_deploy.manifest.whole import write_whole
from edgecl_deploy.store.layout import ENGINE
from edgecl_deploy.store.sealed import LARGEST, seal, unseal

ENGINE_FORMAT = "edgecl-engine/1"
_MOST_THREADS = 4096
_MOST_MS = 1e9
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What `edgecl-device tune` found to be the fastest on this machine."""

    engine: str
    precision: str
    batch: int | None  # images of every run
    threads: int | None
    ms: float  # per image, the median
    version: str  # of the engine
    cpu: str
    bundle: str  # digest of bundle.json
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Write `engine.json`, sealed."""
        return seal(
            ENGINE_FORMAT,
            {
                **self.extra,
                "engine": self.engine,
                "precision": self.precision,
                "batch": self.batch,
                "threads": self.threads,
                "ms": float(self.ms),
                "version": self.version,
                "cpu": self.cpu,
                "bundle": self.bundle,
            },
        )


def parse_choice(data: bytes) -> Choice:
    """Read `engine.json`."""
    fields = unseal(data, ENGINE, ENGINE_FORMAT)
    return Choice(
        engine=fields.text("engine"),
        precision=fields.choice("precision", PRECISIONS),
        batch=fields.optional("batch", lambda key: fields.integer(key, 1, MAX_BATCH)),
        threads=fields.optional("threads", lambda key: fields.integer(key, 1, _MOST_THREADS)),
        ms=fields.number("ms", 0.0, _MOST_MS),
        version=fields.text("version"),
        cpu=fields.text("cpu"),
        bundle=fields.sha256("bundle"),
        extra=fields.unknown(),
    )


def write_choice(store: Path, choice: Choice) -> None:
    """Remember a choice in a store."""
    write_whole(store / ENGINE, choice.to_bytes(), mode=0o644)


def read_choice(store: Path, bundle: str) -> Choice | None:
    """Read what was measured in a store.

    Args:
        store: Its folder.
        bundle: The digest of its bundle.

    Returns:
        The choice; None if there is none, or it is damaged, or of another bundle or processor.
    """
    if not os.path.lexists(store / ENGINE):
        return None
    try:
        choice = parse_choice(read_file(store / ENGINE, LARGEST))
    except (DeployError, OSError) as error:
        _LOG.warning("float32 runs in the default engine: %s", error)
        return None
    if choice.bundle == bundle and choice.cpu == cpu_name():
        return choice
    _LOG.warning("%s is of another bundle or processor: run `edgecl-device tune` again", ENGINE)
    return None


@dataclass(frozen=True)
class Wish:
    """What a caller asks for; `auto` and None leave it to what was measured."""

    engine: str = AUTO
    precision: str = AUTO
    form: str = AUTO
    slots: str = AUTO
    batch: int | None = None
    threads: int | None = None

    def meet(self, choice: Choice | None, artefacts: Artefacts | None) -> tuple[Engine, Mode]:
        """Make the engine, and the mode that it runs in.

        Args:
            choice: What was measured. It counts as a whole, where nothing else is asked for.
            artefacts: Where the engine keeps what it compiles.
        """
        measured = None if choice is None or self != Wish() else made(choice, artefacts)
        if measured is not None:
            return measured
        precision = FLOAT32 if self.precision == AUTO else self.precision
        engine = make_engine(self.engine, self.threads, artefacts)
        wanted = Mode(self.form, self.slots, precision, self.batch)
        return engine, Mode.fitting(engine, wanted)


def made(choice: Choice, artefacts: Artefacts | None) -> tuple[Engine, Mode] | None:
    """Make the engine of a choice, None if it is not there as it was measured."""
    try:
        engine = make_engine(choice.engine, choice.threads, artefacts)
    except EngineMissingError as error:
        _LOG.warning("float32 runs in the default engine: %s", error)
        return None
    if engine.version == choice.version:
        return engine, Mode.fitting(engine, Mode(AUTO, AUTO, choice.precision, choice.batch))
    _LOG.warning(
        "%s was measured with %s %s, this is %s: run `edgecl-device tune` again",
        ENGINE,
        choice.engine,
        choice.version,
        engine.version,
    )
    return None
