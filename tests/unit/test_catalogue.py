from hypothesis import given
from hypothesis import strategies as st

from common.config.kafka import Brokers
from common.events import ProductData
from order.api.log.catalogue import Catalogue, Edition


def product(version: int, product_id: str = "p") -> ProductData:
    return ProductData(
        product_id=product_id, name="P", unit_price=100 * version, currency="EUR", active=True, version=version
    )


@given(st.lists(st.integers(1, 9), min_size=1))
def test_the_highest_version_counts_in_any_order_of_arrival(versions: list[int]) -> None:
    edition = Edition(1)
    for version in versions:
        edition.apply(product(version))
    assert edition.products["p"].version == max(versions)


def test_it_is_complete_when_every_partition_is_read_to_its_end() -> None:
    edition = Edition(3)
    edition.set_at_end(2, True)
    edition.apply(product(1))
    edition.set_at_end(0, True)
    assert not edition.complete
    edition.set_at_end(1, True)
    assert edition.complete


def test_a_part_of_a_catalogue_that_is_published_anew_is_not_taken_for_the_whole() -> None:
    """The topic was deleted and made again. An api that reads it is at its end before the relay publishes."""
    edition = Edition(1)
    edition.set_at_end(0, True)
    assert not edition.complete, "there is nothing to order"
    edition.apply(product(1, "first of a thousand"))
    edition.set_at_end(0, False)
    assert not edition.complete
    edition.set_at_end(0, True)
    assert edition.complete


def test_before_it_is_read_the_catalogue_is_empty_and_says_so() -> None:
    catalogue = Catalogue(Brokers("127.0.0.1:1"), "order-api-1")
    assert catalogue.products == {}
    assert "not been read to its end" in catalogue.missing()[0]


def test_an_empty_topic_is_said_and_so_is_one_that_cannot_be_read() -> None:
    catalogue = Catalogue(Brokers("127.0.0.1:1"), "order-api-1")
    edition = Edition(1)
    edition.set_at_end(0, True)
    catalogue._take_in(edition, [])
    assert catalogue.missing() == ["catalogue: no product in topic 'products'; does inventory run?"]
    catalogue.report("topic 'products' cannot be described")  # as its thread does when it is gone
    assert catalogue.missing() == ["catalogue: topic 'products' cannot be described"]
    edition.apply(product(1))
    catalogue._take_in(edition, [])
    assert catalogue.missing() == []
