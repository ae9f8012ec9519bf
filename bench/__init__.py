"""How fast fedimg is, and against which limit: `python -m bench`, or `make bench`."""
