"""How long a test waits for a process or a thread before it says that it hangs."""

HANGS = 1800
"""Seconds. Nothing that is waited for takes one minute of an idle machine, so that no load makes a healthy process look hung."""
