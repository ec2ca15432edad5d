"""Commands of people who are no administrators, and what the history says of them."""

from __future__ import annotations

import json

import pytest

from tests.support.control import REVIEWS_V1

pytestmark = pytest.mark.usefixtures("plane")


@pytest.fixture
def reviews(tmp_path):
    (tmp_path / "reviews.yaml").write_text(REVIEWS_V1)
    return "reviews.yaml"


@pytest.fixture
def as_alice(meshlib, monkeypatch, tmp_path):
    """From now on commands are alice's."""
    (tmp_path / "alice.token").write_text(meshlib("token", "create", "--user", "alice").out)
    return lambda: monkeypatch.setenv("MESHLIB_API_TOKEN_FILE", "alice.token")


def test_a_forbidden_apply_says_who_cannot_do_what(meshlib, reviews, as_alice):
    """kubectl's words, and what to do next."""
    as_alice()
    result = meshlib("apply", "-f", reviews)
    assert result.code == 1
    assert 'User "alice" cannot create resource "virtualservices" "reviews"' in result.err
    assert "Role" in result.err.splitlines()[-1]


def test_the_history_is_a_table(meshlib, reviews, as_alice):
    """Newest first; who was refused stands in it."""
    meshlib("apply", "-f", reviews)
    as_alice()
    meshlib("delete", "vs", "reviews")
    meshlib("apply", "-f", reviews, "-n", "shop")
    assert meshlib("history").err == "Nothing was done yet.\n"


def test_the_administrator_sees_all_of_it(meshlib, reviews):
    """Also as JSON for scripts."""
    meshlib("token", "create", "--service-account", "reviews")
    meshlib("apply", "-f", reviews)
    lines = meshlib("history").out.splitlines()
    assert lines[0].split() == ["AGE", "REVISION", "AUTHOR", "ACTION", "OBJECT", "FILE"]
    assert "admin (" in lines[1]
    assert "VirtualService default/reviews" in lines[1]
    assert "issued" in lines[2]
    assert [item["action"] for item in json.loads(meshlib("history", "-o", "json").out)["items"]] == ["created", "issued"]
    assert "issued" not in meshlib("history", "vs", "reviews").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("token", "create"), "--service-account or --user"),
        (("token", "create", "--user", "alice", "--service-account", "ci"), "--service-account or --user"),
        (("token", "create", "--service-account", "ci", "--for", "fun"), "--for api"),
        (("token", "create", "--user", "system:masters"), "no name for a user"),
        (("history", "sheep"), "there is no kind 'sheep'"),
    ],
)
def test_a_wrong_command_line_says_what_is_right(meshlib, arguments, said):
    """And makes nothing."""
    result = meshlib(*arguments)
    assert result.code in (64, 65)
    assert said in result.err
    assert result.out == ""
