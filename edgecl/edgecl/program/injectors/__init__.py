"""Injectors: what a method learns for its sites; one file per kind of injection."""

from edgecl.program.injectors.adapters import AdapterStack
from edgecl.program.injectors.attended import AttendedPrompt
from edgecl.program.injectors.base import Injector, NoInjector, Slot
from edgecl.program.injectors.branches import Branches
from edgecl.program.injectors.film import FilmPrompts, FilmSnapshots
from edgecl.program.injectors.growing import GrowingAdapters, GrowingLora
from edgecl.program.injectors.joined import Joined
from edgecl.program.injectors.lora import LoraStack
from edgecl.program.injectors.low_rank import LowRankChange
from edgecl.program.injectors.pixels import PixelPrompts
from edgecl.program.injectors.prefixes import MixedPrefixes, SharedPrefix, TaskPrefixes
from edgecl.program.injectors.projection import ProjectionChange
from edgecl.program.injectors.prompts import PromptPool, SharedPrompts
from edgecl.program.injectors.scale_shift import ScaleShiftStack

__all__ = [
    "AdapterStack",
    "AttendedPrompt",
    "Branches",
    "FilmPrompts",
    "FilmSnapshots",
    "GrowingAdapters",
    "GrowingLora",
    "Injector",
    "Joined",
    "LoraStack",
    "LowRankChange",
    "MixedPrefixes",
    "NoInjector",
    "PixelPrompts",
    "ProjectionChange",
    "PromptPool",
    "ScaleShiftStack",
    "SharedPrefix",
    "SharedPrompts",
    "Slot",
    "TaskPrefixes",
]
