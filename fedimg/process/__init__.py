"""The process that fedimg runs as: its memory, files, signals, logs, watchdog and end.

The package holds what any of fedimg's processes needs of the operating system and of systemd. It
knows nothing of jobs, buses or EC2. Every package above `untrusted` may import it.
"""
