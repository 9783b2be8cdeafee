"""Chaos: a whole Tandem under load, and faults drawn from a seed; at the end everything has to add up.

`python -m tests.chaos --seed 7 --minutes 10`, or `just chaos`. The same seed deals the same faults in the same order,
with the same targets and durations, in the manner of TigerBeetle's VOPR. It does not fix the moments: the processes are
real and so is their time.

`schedule` deals the faults, `faults` injects and heals them, `arena` is the stack that they hit, `clients` are its
customers, `run` plays a schedule and measures each recovery, `acts` are the faults that end a stack, `report` is what
remains.
"""
