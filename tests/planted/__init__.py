"""Bugs of the kind that such systems ship, each planted in a copy of the checkout: some check has to find it.

`bugs` lists them, `plant` makes the copy and runs the checks, `python -m tests.planted` does that for all. A unit test
fails when a line in which a bug is planted changes, so that the bug is carried along.
"""
