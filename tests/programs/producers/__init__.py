"""Checkpoint files as the world writes them, each by its own library's saving call, given to the reader.

`python -m tests.programs.producers` makes them with every library that is installed, records what came of each in
`tests/data/producers.json`, and writes the tables of `docs/converting.md`.
"""
