"""Matchers: from the query of one image to weights over the bank; one file per rule."""

from edgecl.matching.base import Match, Matcher, NoMatcher, TaskMatcher, newest
from edgecl.matching.centroids import NearestCentroid
from edgecl.matching.energy import EnergyVote
from edgecl.matching.gaussian import TaskGaussians, task_gaussian
from edgecl.matching.inference import TaskInference
from edgecl.matching.keys import TaskKeys, TopK
from edgecl.matching.mixture import AttendedKeys

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
