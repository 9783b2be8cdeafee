"""`python -m ops.split PRODUCT BUCKETS`: splits a product's stock in buckets, so that several instances of inventory
sell it without waiting for one another. As many buckets as there are partitions serve any number of instances.

Clients see no difference: a product's stock is what its buckets have together. A later split changes how many there
are. Before the first, all instances of inventory must know of buckets: earlier versions take such a product for sold
out. The act is recorded in the audit.
"""

import argparse
from collections.abc import Sequence

import psycopg

from common.audit import table as audit
from common.audit.entry import Entry, user_author
from common.config.env import Env
from common.errors import Fatal, describe
from common.postgres import connect, transaction
from inventory.buckets import BUCKETS_MAX, split
from ops import tool


def buckets(text: str) -> int:
    """Raises `argparse.ArgumentTypeError`."""
    if not text.isdecimal() or not 1 <= int(text) <= BUCKETS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1 to {BUCKETS_MAX}")
    return int(text)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="split", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("product", help="the product's id")
    parser.add_argument("buckets", type=buckets, help=f"how many, 1 to {BUCKETS_MAX}; best the number of partitions")
    tool.add_consent(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    chosen = parse(arguments)
    try:
        connection = connect(Env("split").database_url("INVENTORY_DATABASE_URL"), "split")
    except psycopg.OperationalError as error:
        raise Fatal(
            f"split: cannot connect to the inventory database; is it up? 'just start postgres' ({describe(error)})"
        ) from error
    with connection, transaction(connection):
        done = split(connection, chosen.product, chosen.buckets)
        if done is None:
            raise Fatal(f"split: there is no product {chosen.product!r}; GET /api/v1/products lists them")
        pieces, before = done
        result = f"{pieces} pieces, in {before} buckets before" if before else f"{pieces} pieces, not split before"
        detail = {"buckets": chosen.buckets, "why": chosen.why}
        audit.write(connection, user_author(chosen.actor), Entry("split", f"product {chosen.product}", detail, result))
        if chosen.dry_run:
            connection.rollback()
    note = tool.DRY_RUN_NOTE if chosen.dry_run else ""
    print(f"product {chosen.product} is split in {chosen.buckets} buckets: {result}{note}")
    return 0


if __name__ == "__main__":
    tool.run(main)
