"""Errors that are proved, by ball arithmetic."""
