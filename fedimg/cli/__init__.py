"""The command line: commands, their answers on a terminal and as JSON, and `fedimg check`.

The package reads arguments and renders answers. Only the entry point imports it.
"""
