"""The proof: no order was lost, charged twice or oversold. `python -m ops.verify`, `just verify`.

It audits the three databases and the log by six statements (`statements`), on the running system and without false
alarms. `proof` has the steps, and why their order makes them sound; `sources` reads the log and the databases;
`evidence` keeps what they say of each order, in bounded memory; `judge` judges it: an order without I/O
(`judge.order`), buckets of orders from their files, balances and stock by SQL (`judge.audit`).
"""

from common.terminal import end_with_2_after_traceback

end_with_2_after_traceback()  # 1 means that `just verify` has found a violation
