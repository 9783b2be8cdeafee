"""Bugs of the kind that such systems ship, each planted in a copy of the checkout: some check has to find it.

`bugs` lists them, `plant` makes the copy and runs the checks, `python -m tests.planted` does that for all. A unit test
holds the list to the code, so that whoever changes a line which a bug is planted in carries the bug along.
"""
