"""Define the error of an unusable configuration."""

from __future__ import annotations


class ConfigError(Exception):
    """The configuration is unusable; the text names the file, the key and what to write."""


class ConfigUnusableNow(ConfigError):
    """The machine lacks at present, and may have later, something that the configuration names."""
