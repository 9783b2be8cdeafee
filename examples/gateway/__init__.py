"""Payment by card: it runs in payment's place, and asks a card gateway too. See decision 26.

`authorise.py` asks before an order is decided, `consumer.py` decides, and `settle.py` captures or releases what was
authorised when the saga has decided. `fake.py` is a gateway to try it with.
"""
