import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib.identity.rotation import Validity, explain, judge, renew_at, span

DAY = 86400.0


def test_renewal_is_at_half_life() -> None:
    """Without jitter exactly in the middle, with it up to a tenth of the life to either side."""
    assert renew_at(1000.0, 1000.0 + DAY) == 1000.0 + DAY / 2
    assert renew_at(0.0, 100.0, -1.0) == pytest.approx(40.0)
    assert renew_at(0.0, 100.0, 1.0) == pytest.approx(60.0)


@given(start=st.floats(0, 2e9), life=st.floats(1, 1e8), jitter=st.floats(-1, 1))
def test_renewal_is_inside_the_life(start: float, life: float, jitter: float) -> None:
    """Whatever the jitter, there is time left before and after."""
    assert judge(renew_at(start, start + life, jitter), start, start + life) is Validity.VALID


@pytest.mark.parametrize(
    ("now", "validity"),
    [(99.9, Validity.NOT_YET), (100, Validity.VALID), (200, Validity.VALID), (200.1, Validity.EXPIRED)],
)
def test_both_ends_belong_to_the_life(now: float, validity: Validity) -> None:
    """RFC 5280: notBefore and notAfter are inclusive."""
    assert judge(now, 100, 200) is validity


def test_words_hold_both_times() -> None:
    """A clock an hour off: the message shows the certificate's time, the clock's, and the difference."""
    assert explain(1_700_000_000, 1_700_003_600, 1_700_090_000) == (
        "it is not yet valid: it begins at 2023-11-14 23:13:20 UTC, "
        "but the clock here says 2023-11-14 22:13:20 UTC, 1 h 0 min earlier"
    )
    assert explain(1_700_003_600, 1_699_990_000, 1_700_000_000) == (
        "it has expired: it ended at 2023-11-14 22:13:20 UTC, and the clock here says 2023-11-14 23:13:20 UTC, 1 h 0 min later"
    )
    assert explain(150, 100, 200) == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (3720, "1 h 2 min"), (97_200, "1 d 3 h")]
)
def test_spans(seconds: float, words: str) -> None:
    """Lengths of time in the two largest units."""
    assert span(seconds) == words
