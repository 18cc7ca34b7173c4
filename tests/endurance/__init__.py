"""Load and faults: `python -m tests.endurance`."""
