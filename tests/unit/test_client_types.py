from examples.shop.generate_types import TYPES, first_line


def test_the_typescript_types_are_made_from_the_schemas_as_they_are() -> None:
    with TYPES.open() as types:
        assert types.readline() == first_line(), "run `just client-types`, which needs npm"
