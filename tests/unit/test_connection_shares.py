"""Which web process lets another one go first."""

from lastacross.processes.connection_shares import SLOTS, ConnectionShares


def test_who_has_more_connections_than_another_lets_it_go_first() -> None:
    shares = ConnectionShares()
    first, second = shares.take(), shares.take()
    shares.note(first, 3)
    shares.note(second, 2)

    assert (shares.surplus(first), shares.surplus(second)) == (1, 0)
    shares.note(second, 3)
    assert shares.surplus(first) == 0


def test_nobody_waits_for_a_process_that_does_not_accept() -> None:
    shares = ConnectionShares()
    first, second = shares.take(), shares.take()
    shares.note(first, 3)

    assert shares.surplus(first) == 0  # the second one is still starting
    shares.note(second, 0)
    assert shares.surplus(first) == 3
    shares.leave(second)
    assert shares.surplus(first) == 0
    shares.leave(first)
    assert shares.surplus(first) == 0


def test_the_slot_of_a_process_that_has_ended_is_given_to_the_next_one() -> None:
    shares = ConnectionShares()
    slots = [shares.take() for _ in range(SLOTS)]
    shares.note(slots[0], 1)
    shares.note(slots[1], 2)
    shares.give_back(slots[0])

    assert shares.surplus(slots[1]) == 0
    assert shares.take() == slots[0]


def test_a_process_beyond_the_slots_takes_what_comes() -> None:
    shares = ConnectionShares()
    first = shares.take()
    shares.note(first, 0)
    while shares.take() is not None:
        pass

    shares.note(None, 5)
    assert shares.surplus(None) == 0
    shares.leave(None)
    shares.give_back(None)
