"""The api refuses orders at once when the log has taken none for too long."""

from order.api.log.silence import Silence


def test_a_silence_begins_when_something_waits_and_ends_with_an_acknowledgement() -> None:
    silence = Silence()
    assert silence.lasts_s(10, 3, 100) == 0, "ten were acknowledged since the start"
    assert silence.lasts_s(10, 3, 101) == 0
    assert silence.lasts_s(10, 5, 104) == 3
    assert silence.lasts_s(11, 5, 105) == 0
    assert silence.lasts_s(11, 5, 106) == 0
    assert silence.lasts_s(11, 5, 108) == 2


def test_a_log_of_which_nothing_is_wanted_is_not_silent() -> None:
    """When all that waited has failed, orders are let in again: they show whether it takes them."""
    silence = Silence()
    assert [silence.lasts_s(0, 0, at_s) for at_s in (1, 9)] == [0, 0]
    assert [silence.lasts_s(0, 2, at_s) for at_s in (10, 16)] == [0, 6]
    assert [silence.lasts_s(0, in_flight, 17) for in_flight in (0, 2)] == [0, 0]
