"""Semaphores: the limit, the order of waiting jobs, and release."""

from concurrent.futures import ThreadPoolExecutor

from fedimg.jobs.semaphores import Semaphores

DATABASES = ("sqlite", "postgresql")


def test_semaphore_has_no_more_holders_than_its_limit(store):
    semaphores = Semaphores(store)
    assert [semaphores.acquire("copies:eu-west-1", job, 2) for job in "abc"] == [True, True, False]
    assert semaphores.acquire("copies:us-west-1", "c", 2)


def test_released_semaphore_goes_to_the_job_that_asked_first(store):
    semaphores = Semaphores(store)
    assert [semaphores.acquire("utilities", job, 1) for job in "cba"] == [True, False, False]
    semaphores.release("utilities", "c")
    # A job that asks more often does not overtake.
    assert [semaphores.acquire("utilities", job, 1) for job in "aba"] == [False, True, False]


def test_job_that_stops_waiting_is_skipped(store):
    semaphores = Semaphores(store)
    assert [semaphores.acquire("utilities", job, 1) for job in "abc"] == [True, False, False]
    semaphores.release("utilities", "b")
    semaphores.release("utilities", "a")
    assert semaphores.acquire("utilities", "c", 1)
    assert not semaphores.acquire("utilities", "b", 1)


def test_job_that_asks_again_holds_one_semaphore(store):
    # After a failover the job asks again, from another worker.
    semaphores = Semaphores(store)
    assert all(semaphores.acquire("utilities", "a", 2) for _ in range(3))
    assert semaphores.acquire("utilities", "b", 2)


def test_clean_up_releases_all_semaphores_of_a_job(store):
    semaphores = Semaphores(store)
    semaphores.acquire("utilities", "a", 1)
    semaphores.acquire("copies:eu-west-1", "a", 1)
    semaphores.release_all("a")
    assert semaphores.acquire("utilities", "b", 1)
    assert semaphores.acquire("copies:eu-west-1", "b", 1)


def test_concurrent_jobs_do_not_exceed_the_limit(store):
    semaphores = Semaphores(store)
    with ThreadPoolExecutor(8) as pool:
        acquired = list(
            pool.map(lambda job: semaphores.acquire("utilities", f"{job}", 3), range(24))
        )
    assert sum(acquired) == 3
