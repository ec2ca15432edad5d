import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib.errors import IdentityError
from meshlib.identity.spiffe import SpiffeId

REVIEWS = "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"


def test_parts() -> None:
    """An id of Istio's form is taken apart and put together again."""
    parsed = SpiffeId.parse(REVIEWS)
    assert parsed == SpiffeId("cluster.local", "default", "bookinfo-reviews")
    assert str(parsed) == REVIEWS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cluster.local/ns/default/sa/x",
        "https://cluster.local/ns/default/sa/x",
        "spiffe://cluster.local/ns/default",
        "spiffe://cluster.local/ns/default/sa/x/y",
        "spiffe://cluster.local/sa/x/ns/default",
        "spiffe://Cluster.Local/ns/default/sa/x",
        "spiffe://cluster.local:443/ns/default/sa/x",
        "spiffe:///ns/default/sa/x",
        "spiffe://cluster.local/ns//sa/x",
        "spiffe://cluster.local/ns/../sa/x",
        "spiffe://cluster.local/ns/default/sa/x?y",
        "spiffe://cluster.local/ns/default/sa/x\n",
    ],
)
def test_other_forms_are_refused(text: str) -> None:
    """What is not of Istio's form, or not allowed by SPIFFE, is an IdentityError."""
    with pytest.raises(IdentityError):
        SpiffeId.parse(text)


PART = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)


@given(PART, PART, PART)
def test_writing_and_reading_are_inverse(domain: str, namespace: str, account: str) -> None:
    """Every id survives its text."""
    spiffe_id = SpiffeId(domain, namespace, account)
    assert SpiffeId.parse(str(spiffe_id)) == spiffe_id
