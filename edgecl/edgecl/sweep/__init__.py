"""Sweeps: many trainings from one file, on all processors, of which any may fail."""

from edgecl.sweep.plan import Cell, SweepError, read_plan
from edgecl.sweep.queue import Status, Sweep
from edgecl.sweep.summing import Group, summed

__all__ = ["Cell", "Group", "Status", "Sweep", "SweepError", "read_plan", "summed"]
