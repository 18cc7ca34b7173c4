"""A candidate held against the reference, layer by layer."""
