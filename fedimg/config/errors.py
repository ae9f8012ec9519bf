"""Define the error of an unusable configuration."""

from __future__ import annotations


class ConfigError(Exception):
    """The configuration is unusable; the text names the file, the key and what to write."""
