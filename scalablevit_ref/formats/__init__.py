"""Bytes to named arrays and back; nothing here knows a network."""
