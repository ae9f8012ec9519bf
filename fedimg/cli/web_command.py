"""Define the command that serves pages and metrics."""

from __future__ import annotations

from fedimg.cli.app import Call, service


@service
def web(call: Call) -> int:
    """Serve jobs, metrics and the catalogue over HTTP.

    It runs until SIGTERM or SIGINT, and changes nothing.
    """
    from fedimg.process import logs
    from fedimg.web.server import run_web

    settings = call.settings
    logs.to_standard_error()
    return run_web(settings)
