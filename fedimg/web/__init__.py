"""Read-only pages and metrics over HTTP: jobs, readiness, Prometheus's metrics, and the catalogue.

The package reads the database and the catalogue's directory; it writes nothing, and calls neither
AWS nor Koji nor a bus. Only `cli` imports it.
"""
