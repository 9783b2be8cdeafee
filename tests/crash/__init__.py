"""Crash points: named places in every process, each of which has to be survived.

`points` names them, `launch` runs a process so that it kills itself at one, `trial` does that to a stack under load and
judges what is left, and `python -m tests.crash` (`just crash-matrix`) does it for all.
"""
