"""Mistakes that people make in ports of ScalableViT, planted in ports of several styles, and what the comparator says of each.

`python -m tests.programs.corpus` compares every one of them and writes `docs/corpus.json` and `docs/corpus.md`. The ports and the
mistakes were written by people who did not know how the comparator works, after it was designed. A port is a file of its own in
`ports/`, with the function `build(config)`; its mistakes are edits of its source.
"""
