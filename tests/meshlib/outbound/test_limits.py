from __future__ import annotations

import threading

from meshlib.config.protection import CircuitBreakers, RetryBudget
from meshlib.outbound.limits import Breaker, Meter


def test_no_limit_is_passed() -> None:
    """Refused ones are counted, and leave no trace."""
    meter = Meter()
    assert [meter.enter(2) for _ in range(4)] == [True, True, False, False]
    meter.leave()
    assert meter.enter(2)
    assert (len(meter), meter.overflows) == (2, 2)


def test_threads_together_do_not_pass_it_either() -> None:
    """What enters looks at the count afterwards."""
    meter, most = Meter(), []

    def work() -> None:
        for _ in range(2000):
            if meter.enter(3):
                most.append(len(meter))
                meter.leave()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(meter) == 0
    assert most


def test_an_endpoint_without_a_connection_may_have_one() -> None:
    """Envoy: nobody may wait for ever."""
    breaker = Breaker(CircuitBreakers(max_connections=1))
    assert breaker.connect(first=True)
    assert not breaker.connect(first=False)
    assert breaker.connect(first=True)
    assert len(breaker.connections) == 2


def test_a_retry_budget_is_a_share_and_always_a_few() -> None:
    """It replaces the limit."""
    breaker = Breaker(CircuitBreakers(max_retries=0, retry_budget=RetryBudget(50.0, 1)))
    assert [breaker.retry(), breaker.retry()] == [True, False]
    for _ in range(4):
        assert breaker.begin()
    assert [breaker.retry(), breaker.retry()] == [True, False]
