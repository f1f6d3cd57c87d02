"""Injectors: what a method learns for its sites; one file per kind of injection."""

from edgecl.injectors.adapters import AdapterStack
from edgecl.injectors.base import Injector, NoInjector, Slot
from edgecl.injectors.branches import Branches
from edgecl.injectors.film import FilmPrompts, FilmSnapshots
from edgecl.injectors.growing import GrowingAdapters
from edgecl.injectors.joined import Joined
from edgecl.injectors.lora import LoraStack
from edgecl.injectors.low_rank import LowRankChange
from edgecl.injectors.prefixes import MixedPrefixes, SharedPrefix, TaskPrefixes
from edgecl.injectors.prompts import PromptPool, SharedPrompts
from edgecl.injectors.scale_shift import ScaleShiftStack

__all__ = [
    "AdapterStack",
    "Branches",
    "FilmPrompts",
    "FilmSnapshots",
    "GrowingAdapters",
    "Injector",
    "Joined",
    "LoraStack",
    "LowRankChange",
    "MixedPrefixes",
    "NoInjector",
    "PromptPool",
    "ScaleShiftStack",
    "SharedPrefix",
    "SharedPrompts",
    "Slot",
    "TaskPrefixes",
]
