"""Progress of long work. It is defined without torch, where the signing machine finds it too."""

from edgecl_deploy.progress import Advance, Reporter, RichReporter

__all__ = ["Advance", "Reporter", "RichReporter"]
