"""Rounds of faults against a whole cluster of real processes, and a judge of what clients saw.

`python tests/chaos/rounds.py --rounds 100` is the command; `tests/chaos/README.md` describes it.
"""
