"""The proof: no order was lost, charged twice or oversold. `python -m ops.verify`, `just verify`.

It audits the three databases and the log against six statements, on the running system and without false alarms. How,
and why the order of its steps makes it sound, is written in `proof`; the judgement itself, free of I/O, in `judge`.
"""
