"""`docs/proof.md`: what the properties, the planted faults and the mutants show.

`python -m tests.programs.proof` tries all properties and all planted faults, and writes the page. With libraries it runs the
properties on these alone, and the page keeps the other columns and the planted faults. `--mutants` and `--certified` run nothing:
they write the page again after `docs/mutation.json` or `docs/certified.json` has changed.
"""
