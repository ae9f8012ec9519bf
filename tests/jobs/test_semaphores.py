from concurrent.futures import ThreadPoolExecutor

from fedimg.jobs.semaphores import Slots

DATABASES = ("sqlite", "postgresql")


def test_there_are_so_many_places_and_no_more(store):
    slots = Slots(store)
    assert [slots.take("copies:eu-west-1", job, 2) for job in "abc"] == [True, True, False]
    assert slots.take("copies:us-west-1", "c", 2)


def test_place_that_is_given_back_is_the_next_ones_in_line(store):
    slots = Slots(store)
    assert [slots.take("utilities", job, 1) for job in "cba"] == [True, False, False]
    slots.free("utilities", "c")
    # Who looks more often is not served sooner.
    assert [slots.take("utilities", job, 1) for job in "aba"] == [False, True, False]


def test_who_leaves_the_line_is_not_waited_for(store):
    slots = Slots(store)
    assert [slots.take("utilities", job, 1) for job in "abc"] == [True, False, False]
    slots.free("utilities", "b")
    slots.free("utilities", "a")
    assert slots.take("utilities", "c", 1)
    assert not slots.take("utilities", "b", 1)


def test_job_has_one_place_however_often_it_asks(store):
    # After a take-over it asks again, from another worker.
    slots = Slots(store)
    assert all(slots.take("utilities", "a", 2) for _ in range(3))
    assert slots.take("utilities", "b", 2)


def test_clean_up_gives_all_of_a_jobs_places_back(store):
    slots = Slots(store)
    slots.take("utilities", "a", 1)
    slots.take("copies:eu-west-1", "a", 1)
    slots.free_all("a")
    assert slots.take("utilities", "b", 1)
    assert slots.take("copies:eu-west-1", "b", 1)


def test_those_who_ask_at_once_do_not_get_more(store):
    slots = Slots(store)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda job: slots.take("utilities", f"{job}", 3), range(24)))
    assert sum(got) == 3
