"""How fast and how large the backends are beside the authors' network in plain `torch.nn`, timed in turn on one machine."""
