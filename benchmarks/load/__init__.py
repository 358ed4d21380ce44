"""The services under load; `python -m benchmarks.load --help`."""
