"""Bad input, from a seed: hostile requests against a running Tandem, and mutated events against its decoders.

`python -m tests.fuzz` (`just fuzz`) drives the HTTP interface of a stack of its own; `events` is for the decoders.
Attack N of a seed is drawn from that seed and N alone, so that any finding can be sent again by itself.
"""
