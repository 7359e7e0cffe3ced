"""Which callback is tried when, and how far a partition is settled."""

from __future__ import annotations

from darkroom.consumer.hooks.schedule import AGAIN_S, AGAIN_S_MAX, RECEIVER_SENDING_MAX, Delivery, Schedule, Window
from darkroom.consumer.hooks.sending import Message
from darkroom.producer.kafka.reader import TopicPartition

PLACE = TopicPartition("completions", 0)


def delivery(number: int, host: str = "a.example", tenant: str = "studio") -> Delivery:
    """A callback."""
    message = Message(f"msg_{number}", f"https://{host}/x", b"{}")
    return Delivery(PLACE, number, None, tenant, f"job-{number}", message, float(number))


def fail(schedule: Schedule, one: Delivery, now: float) -> None:
    """Let a try fail."""
    one.attempts += 1
    schedule.failed(one, now)


def test_a_receiver_that_answers_gets_some_at_a_time_and_takes_no_turn_of_another() -> None:
    schedule = Schedule(lambda: 0.0)
    for number in range(10):
        schedule.add(delivery(number))
    schedule.add(delivery(10, "b.example"))
    schedule.add(delivery(11, tenant="rival"))
    taken = [schedule.take(0.0) for _ in range(RECEIVER_SENDING_MAX + 3)]
    hosts = [one.receiver for one in taken if one is not None]
    assert len(set(hosts[:3])) == 3, "each receiver has a turn before one has its second"
    assert len(hosts) == RECEIVER_SENDING_MAX + 2
    assert len(schedule) == 10 - RECEIVER_SENDING_MAX


def test_a_receiver_that_fails_is_asked_by_one_at_a_time_ever_less_often_and_gets_all_when_it_is_back() -> None:
    schedule = Schedule(lambda: 0.0)
    for number in range(5):
        schedule.add(delivery(number))
    now, waits = 0.0, []
    for _ in range(12):
        one = schedule.take(now)
        assert one is not None
        while (more := schedule.take(now)) is not None:  # those that were on their way before it was known to fail
            fail(schedule, more, now)
        fail(schedule, one, now)
        due_at = schedule.due_at()
        assert due_at is not None
        assert schedule.take(due_at - 0.01) is None
        waits.append(due_at - now)
        now = due_at
    assert waits[-1] > 10 * waits[0]
    one = schedule.take(now)
    assert one is not None
    assert schedule.take(now) is None
    schedule.delivered(one)
    assert all(schedule.take(now) is not None for _ in range(4))


def test_a_callback_that_alone_fails_waits_longer_each_time_and_the_others_go_on() -> None:
    schedule = Schedule(lambda: 0.0)
    poison = delivery(0)
    schedule.add(poison)
    now, waits = 0.0, []
    for number in range(1, 12):
        assert schedule.take(now) is poison
        fail(schedule, poison, now)
        schedule.add(delivery(number))
        good = schedule.take(now + 2)
        assert good is not None
        assert good is not poison
        schedule.delivered(good)
        due_at = schedule.due_at()
        assert due_at is not None
        waits.append(due_at - now)
        now = due_at
    assert waits[:3] == [AGAIN_S, 2 * AGAIN_S, 4 * AGAIN_S]
    assert waits[-1] == AGAIN_S_MAX


def test_where_all_is_full_the_failing_receiver_gives_up_its_oldest_and_no_other_does() -> None:
    schedule = Schedule(lambda: 0.0)
    for number in (3, 1, 2):
        schedule.add(delivery(number, "a.example"))
    for number in range(10, 20):
        schedule.add(delivery(number, "b.example"))
    assert schedule.give_up_one() is None
    one = schedule.take(0.0)
    assert one is not None
    assert one.receiver.origin == "https://a.example"
    fail(schedule, one, 0.0)
    gone = schedule.give_up_one()
    assert gone is not None
    assert gone.offset == 1
    assert len(schedule) == 12


def test_dropping_all_leaves_those_on_their_way_to_be_reported() -> None:
    schedule = Schedule(lambda: 0.0)
    for number in range(3):
        schedule.add(delivery(number))
    taken = schedule.take(0.0)
    assert taken is not None
    schedule.clear()
    schedule.delivered(taken)
    assert (len(schedule), schedule.due_at(), schedule.take(9.0)) == (0, None, None)


def test_a_position_never_passes_what_is_not_settled() -> None:
    window = Window(5)
    assert window.position == 5
    for offset in (5, 6, 9):
        window.read(offset)
    window.settle(6)
    assert window.position == 5
    window.settle(5)
    assert window.position == 9
    window.settle(9)
    assert (window.position, len(window)) == (10, 0)
