"""Signals, logs, file modes, hidden memory and systemd's watchdog, for all processes of fedimg.

The package knows nothing of jobs, buses or EC2. Every package above `untrusted` may import it.
"""
