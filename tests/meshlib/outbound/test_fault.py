import pytest

from meshlib.config.model import Abort, Delay, Fault
from meshlib.outbound.fault import NOTHING, answer, draw, hits
from tests.support.destinations import Dice, request


@pytest.mark.parametrize("shown", [0.0, 0.5, 0.9999999999999999])
def test_fractions_at_both_ends(shown: float) -> None:
    """A fraction of 0 never hits and one of 1 always does, whatever the dice show."""
    assert not hits(0.0, Dice(shown))
    assert hits(1.0, Dice(shown))


def test_delay_and_abort_are_drawn_independently() -> None:
    """The dice are thrown once for each, delay first."""
    fault = Fault(Delay(0.5, 7.0), Abort(0.5, 500))
    assert draw(fault, Dice(0.1, 0.9)) == draw(Fault(Delay(1.0, 7.0)), Dice(0.0))
    assert draw(fault, Dice(0.9, 0.1)).abort == fault.abort
    assert draw(fault, Dice(0.9, 0.9)) == NOTHING
    assert draw(None, Dice(0.0)) is NOTHING


def test_an_http_abort_answers_in_envoys_words() -> None:
    """Status as set, body `fault filter abort`."""
    status, headers, body = answer(Abort(1.0, 555), request())
    assert (status, body) == (555, b"fault filter abort")
    assert ("content-length", "18") in headers


def test_a_grpc_abort_answers_in_the_headers() -> None:
    """A gRPC caller gets 200 and the status in a header; another caller 200 and the text, as with Envoy."""
    status, headers, body = answer(Abort(1.0, grpc_status=14), request(content_type="application/grpc"))
    assert (status, body) == (200, b"")
    assert ("grpc-status", "14") in headers
    assert answer(Abort(1.0, grpc_status=14), request())[::2] == (200, b"fault filter abort")
