"""Channels: signed releases as plain static files, by which devices update themselves."""

from edgecl_export.channel.manifests import Rollout
from edgecl_export.channel.publish import Published
from edgecl_export.channel.renew import Refreshed
from edgecl_export.channel.repository import Repository
from edgecl_export.channel.serve import Server
from edgecl_export.channel.status import Status

__all__ = ["Published", "Refreshed", "Repository", "Rollout", "Server", "Status"]
