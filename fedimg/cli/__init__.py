"""The command line: commands, their answers on a terminal and as JSON, and `fedimg check`.

The package reads arguments and words answers. Nothing imports it but the entry point.
"""
