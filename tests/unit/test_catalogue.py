from hypothesis import given
from hypothesis import strategies as st

from common.events import ProductData
from order.api.log.catalogue import Catalogue, Edition


def product(version: int, product_id: str = "p") -> ProductData:
    return ProductData(
        product_id=product_id, name="P", unit_price=100 * version, currency="EUR", active=True, version=version
    )


@given(st.lists(st.integers(1, 9), min_size=1))
def test_the_highest_version_counts_in_any_order_of_arrival(versions: list[int]) -> None:
    edition = Edition({0: len(versions)})
    for version in versions:
        edition.apply(product(version))
    assert edition.products["p"].version == max(versions)


def test_it_is_complete_when_every_partition_is_read_to_where_it_ended() -> None:
    edition = Edition({0: 2, 1: 1, 2: 0})
    edition.apply(product(1))
    assert not edition.complete
    edition.read_to(0, 1)
    edition.read_to(1, 1)
    assert not edition.complete
    edition.read_to(0, 2)
    assert edition.complete


def test_it_stays_complete_while_reading_goes_on() -> None:
    edition = Edition({0: 1})
    edition.apply(product(1))
    for offset in (1, 2, 3):
        edition.read_to(0, offset)
        edition.read_to(7, offset)
    assert edition.complete


def test_without_a_product_it_is_not_complete() -> None:
    edition = Edition({0: 0})
    assert not edition.complete
    edition.apply(product(1))
    assert edition.complete


def test_before_it_is_read_the_catalogue_is_empty_and_says_so() -> None:
    catalogue = Catalogue("127.0.0.1:1", "order-api-1")
    assert catalogue.products == {}
    assert "not been read to its end" in catalogue.missing()[0]
