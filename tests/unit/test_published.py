"""The topic of the catalogue compared with the table: what is published again, and what only an operator may decide."""

import pytest

from common.errors import LossDetected
from common.events import ProductData
from inventory.catalogue import Difference, Entry, Published, check_not_behind, compare

NOTHING = Difference([], {})


def tea(version: int = 1, price: int = 100, product_id: str = "tea") -> ProductData:
    return ProductData(
        product_id=product_id, name="Tea", unit_price=price, currency="EUR", active=True, version=version
    )


def topic(*records: ProductData | tuple[str, ProductData | None]) -> Published:
    """A topic with these records: products under their own keys, or any product or none under a key."""
    published = Published()
    for record in records:
        key, product = record if isinstance(record, tuple) else (record.product_id, record)
        published.apply(key, product)
    return published


def table(*entries: Entry) -> dict[str, Entry]:
    return {entry.product.product_id: entry for entry in entries}


def test_a_topic_that_has_everything_published_agrees() -> None:
    assert compare(topic(tea(1), tea(2)), table(Entry(2, tea(2)))) == NOTHING


def test_the_highest_version_is_the_newest_wherever_it_stands() -> None:
    assert topic(tea(1), tea(3), tea(2)).newest == {"tea": tea(3)}


def test_what_is_yet_to_be_published_is_no_difference() -> None:
    assert compare(topic(tea(1)), table(Entry(1, tea(2)), Entry(0, tea(1, product_id="pot")))) == NOTHING


def test_a_version_that_the_log_took_before_it_was_marked_is_no_difference() -> None:
    assert compare(topic(tea(1), tea(2)), table(Entry(1, tea(2)))) == NOTHING


@pytest.mark.parametrize(
    "published",
    [
        topic(),
        topic(tea(2), tea(1)),
        topic(tea(2), ("tea", None)),
        topic(tea(2), ("tea", tea(1, product_id="pot"))),
        topic(tea(1)),
    ],
    ids=["lost", "an older one is last", "a tombstone is last", "another product is last", "older"],
)
def test_what_compaction_would_not_keep_is_published_again(published: Published) -> None:
    assert compare(published, table(Entry(2, tea(2)))).unpublished == ["tea"]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (table(), "no row of it"),
        (table(Entry(3, tea(3, 90))), "version 3"),
        (table(Entry(3, tea(4, 95))), "version 4"),
        (table(Entry(5, tea(5, 90))), "another one"),
    ],
    ids=["row deleted", "restored", "restored and changed", "changed by hand"],
)
def test_prices_older_than_those_published_are_not_published_after_them(entries: dict[str, Entry], words: str) -> None:
    difference = compare(topic(tea(5, 300)), entries)
    assert list(difference.behind) == ["tea"]
    assert difference.unpublished == []
    with pytest.raises(LossDetected, match=rf"1 products .* tea in version 5 \(the database has {words}\).*replay"):
        check_not_behind(difference)


def test_without_a_difference_nothing_is_lost() -> None:
    check_not_behind(NOTHING)
