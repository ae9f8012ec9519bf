"""The database: connections, tables, and what fedimg remembers of jobs, AMIs and messages.

The package reads and writes rows, on SQLite or PostgreSQL, and upgrades older schemas. It decides
nothing about jobs: `jobs` does. It imports values, `process` and `untrusted` alone.
"""
