"""A Koji: hub, file server and the messages of its bus plugin; sending those is the bus's part."""

from lab.koji.server import Koji

__all__ = ["Koji"]
