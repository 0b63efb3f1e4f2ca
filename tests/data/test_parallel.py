import threading
from itertools import count, islice

import pytest

from ddim_keras.data import parallel
from ddim_keras.data.parallel import map_in_order


@pytest.fixture(autouse=True)
def three_cores(monkeypatch):
    monkeypatch.setattr(parallel.os, "cpu_count", lambda: 3)


def test_results_keep_the_order_of_their_items():
    second_is_done = threading.Event()

    def double(item):
        if item == 0:
            assert second_is_done.wait(10)
        if item == 1:
            second_is_done.set()
        return 2 * item

    assert list(map_in_order(double, range(100))) == [*range(0, 200, 2)]
    assert list(map_in_order(double, [])) == []


def test_as_many_are_computed_at_once_as_there_are_cores():
    all_together = threading.Barrier(3)
    places = list(map_in_order(lambda item: all_together.wait(10), range(9)))
    assert sorted(places) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_it_takes_few_items_ahead():
    taken = []
    items = (taken.append(item) or item for item in count())
    for result in islice(map_in_order(lambda item: item, items), 50):
        assert len(taken) <= result + 2 * 3


def test_errors_come_in_their_turn():
    def invert(item):
        return 1 / (3 - item)

    results = map_in_order(invert, range(9))
    assert list(islice(results, 3)) == [1 / 3, 1 / 2, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_no_thread_stays_where_one_stops_early():
    threads = threading.active_count()
    results = map_in_order(lambda item: item, count())
    assert next(results) == 0
    assert threading.active_count() > threads
    results.close()
    assert threading.active_count() == threads
