"""The benchmarks of fedimg, each with its limit: `python -m bench`, or `make bench`."""
