"""Mutated files for every reader: a file of another person must not crash, hang or fill memory.

``python -m fuzz TARGET --inputs 100000`` runs one target, ``make fuzz`` all of them. A reader may
read a file, or refuse it with a ``SingleoutError`` of one bounded line. All else is a finding. Its
input is kept in ``fuzz/findings``.
"""
