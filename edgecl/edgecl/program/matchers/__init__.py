"""Matchers: from the query of one image to weights over the bank; one file per rule."""

from edgecl.program.matchers.base import Match, Matcher, NoMatcher, TaskMatcher, newest
from edgecl.program.matchers.centroids import NearestCentroid
from edgecl.program.matchers.energy import EnergyVote
from edgecl.program.matchers.gaussian import TaskGaussians, task_gaussian
from edgecl.program.matchers.inference import TaskInference
from edgecl.program.matchers.keys import TaskKeys, TopK
from edgecl.program.matchers.mixture import AttendedKeys

__all__ = [
    "AttendedKeys",
    "EnergyVote",
    "Match",
    "Matcher",
    "NearestCentroid",
    "NoMatcher",
    "TaskGaussians",
    "TaskInference",
    "TaskKeys",
    "TaskMatcher",
    "TopK",
    "newest",
    "task_gaussian",
]
