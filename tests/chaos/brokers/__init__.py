"""Chaos on three brokers that are one Kafka: each is killed, frozen, cut off, wiped and restarted under load.

`arena` is the stack, `faults` are what happens to its brokers, `measure` judges what an orders' load met meanwhile, and
`run` plays one after the other and has everything proved.
"""
