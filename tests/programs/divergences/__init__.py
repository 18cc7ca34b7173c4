"""What the published implementations do differently, and how far each of these divergences moves the logits.

`python -m tests.programs.divergences` puts each into the official network, runs both, writes the figures to
`docs/divergences.json` and, from these, the tables of `docs/implementations.md`;
with `--page` it writes the tables from the figures that are there.
"""
