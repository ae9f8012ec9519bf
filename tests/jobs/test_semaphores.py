from concurrent.futures import ThreadPoolExecutor

from fedimg.jobs.semaphores import Semaphores

DATABASES = ("sqlite", "postgresql")


def test_there_are_so_many_places_and_no_more(store):
    semaphores = Semaphores(store)
    assert [semaphores.acquire("copies:eu-west-1", job, 2) for job in "abc"] == [True, True, False]
    assert semaphores.acquire("copies:us-west-1", "c", 2)


def test_place_that_is_given_back_is_the_next_ones_in_line(store):
    semaphores = Semaphores(store)
    assert [semaphores.acquire("utilities", job, 1) for job in "cba"] == [True, False, False]
    semaphores.release("utilities", "c")
    # Who looks more often is not served sooner.
    assert [semaphores.acquire("utilities", job, 1) for job in "aba"] == [False, True, False]


def test_who_leaves_the_line_is_not_waited_for(store):
    semaphores = Semaphores(store)
    assert [semaphores.acquire("utilities", job, 1) for job in "abc"] == [True, False, False]
    semaphores.release("utilities", "b")
    semaphores.release("utilities", "a")
    assert semaphores.acquire("utilities", "c", 1)
    assert not semaphores.acquire("utilities", "b", 1)


def test_job_has_one_place_however_often_it_asks(store):
    # After a take-over it asks again, from another worker.
    semaphores = Semaphores(store)
    assert all(semaphores.acquire("utilities", "a", 2) for _ in range(3))
    assert semaphores.acquire("utilities", "b", 2)


def test_clean_up_gives_all_of_a_jobs_places_back(store):
    semaphores = Semaphores(store)
    semaphores.acquire("utilities", "a", 1)
    semaphores.acquire("copies:eu-west-1", "a", 1)
    semaphores.release_all("a")
    assert semaphores.acquire("utilities", "b", 1)
    assert semaphores.acquire("copies:eu-west-1", "b", 1)


def test_those_who_ask_at_once_do_not_get_more(store):
    semaphores = Semaphores(store)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda job: semaphores.acquire("utilities", f"{job}", 3), range(24)))
    assert sum(got) == 3
