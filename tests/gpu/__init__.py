"""What needs an NVIDIA GPU, in one command: the properties, `verify` and the benchmark. See `__main__.py`."""
