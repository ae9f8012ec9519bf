"""fedimg turns completed Koji image builds into tested, public AMIs in every EC2 region."""

__version__ = "1.0.0"
