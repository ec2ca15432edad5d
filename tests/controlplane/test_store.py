"""Objects on disk: revisions, history, and what happens when the disk does not play along."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib_control.intake import accept
from meshlib_control.mistakes import InvalidObject
from meshlib_control.model import MeshObject, ObjectKey
from meshlib_control.store import Action, ObjectStore, StoreError


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def route(name: str, weight: int = 1, file: str = "a.yaml", comment: str = "") -> MeshObject:
    (found,) = accept(
        f"{comment}apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\n"
        f"spec: {{hosts: [{name}], http: [{{route: [{{destination: {{host: a}}, weight: {weight}}}]}}]}}\n",
        file,
    )
    return found


def key(name: str) -> ObjectKey:
    return ObjectKey("networking.istio.io", "VirtualService", "default", name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "objects.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[ObjectStore]:
    opened = ObjectStore(path, clock)
    yield opened
    opened.close()


def test_an_apply_is_one_revision_for_all_its_objects(store: ObjectStore) -> None:
    """And each object carries it."""
    changes = store.apply([route("a"), route("b")], "eva")
    assert [change.action for change in changes] == [Action.CREATED, Action.CREATED]
    assert store.revision == 1
    assert {one.revision for one in store.objects().values()} == {1}


def test_what_is_equal_makes_no_revision(store: ObjectStore) -> None:
    """Also if other objects of the same apply do change."""
    store.apply([route("a"), route("b")], "eva")
    assert [one.action for one in store.apply([route("a"), route("b")], "eva")] == [Action.UNCHANGED, Action.UNCHANGED]
    assert store.revision == 1
    assert [one.action for one in store.apply([route("a"), route("b", 2)], "eva")] == [Action.UNCHANGED, Action.CONFIGURED]
    assert store.revision == 2
    assert [store.objects()[key(name)].revision for name in "ab"] == [1, 2]


def test_a_line_that_moved_is_a_change(store: ObjectStore) -> None:
    """`explain` must name the right line."""
    store.apply([route("a")], "eva")
    (change,) = store.apply([route("a", comment="# a word\n")], "eva")
    assert change.action is Action.CONFIGURED
    assert store.objects()[key("a")].lines["spec"] == 5


def test_an_object_keeps_the_time_of_its_creation(store: ObjectStore, clock: Clock) -> None:
    """The oldest of rivals wins, so a change must not make it younger; a new one of the same name is young."""
    store.apply([route("a")], "eva")
    clock.now = 200.0
    store.apply([route("a", 2)], "eva")
    assert store.objects()[key("a")].created == 100.0
    store.delete(key("a"), "eva")
    store.apply([route("a")], "eva")
    assert store.objects()[key("a")].created == 200.0


def test_a_dry_run_says_what_would_happen(store: ObjectStore) -> None:
    """And does nothing."""
    store.apply([route("a")], "eva")
    changes = store.apply([route("a", 2), route("b")], "eva", dry_run=True)
    assert [change.action for change in changes] == [Action.CONFIGURED, Action.CREATED]
    assert (store.revision, len(store.objects())) == (1, 1)


def test_the_same_object_twice_in_one_apply_is_refused(store: ObjectStore) -> None:
    """Both places are named."""
    with pytest.raises(InvalidObject, match=r"b\.yaml:1: VirtualService default/a is given twice; it is also in a\.yaml"):
        store.apply([route("a"), route("a", file="b.yaml")], "eva")
    assert store.revision == 0


def test_everything_is_there_again_after_a_restart(path: Path, clock: Clock) -> None:
    """Documents, lines, files, revisions, times; the specs are typed again."""
    with_history = ObjectStore(path, clock)
    with_history.apply([route("a"), route("b")], "eva")
    with_history.delete(key("b"), "eva")
    before = dict(with_history.objects())
    with_history.close()
    again = ObjectStore(path, clock)
    assert dict(again.objects()) == before
    assert again.revision == 2
    assert [one.action for one in again.apply([route("a")], "eva")] == [Action.UNCHANGED]
    again.close()


def test_the_history_says_who_did_what_when(store: ObjectStore, clock: Clock) -> None:
    """Newest first, of one object or of all."""
    store.apply([route("a"), route("b")], "eva")
    clock.now = 300.0
    store.apply([route("a", 2)], "adam")
    store.delete(key("a"), "eva")
    mine = store.history(key("a"))
    assert [(one.revision, one.author, one.action.value, one.time) for one in mine] == [
        (3, "eva", "deleted", 300.0),
        (2, "adam", "configured", 300.0),
        (1, "eva", "created", 100.0),
    ]
    assert mine[0].document == {}
    assert mine[1].document["spec"]["http"][0]["route"][0]["weight"] == 2
    assert len(store.history()) == 4
    assert len(store.history(limit=2)) == 2


def test_objects_are_listed_by_kind_namespace_and_name(store: ObjectStore) -> None:
    """In any case of letters; empty means any."""
    (peer,) = accept("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a, namespace: shop}\n")
    store.apply([route("b"), route("a"), peer], "eva")
    assert [str(one.key) for one in store.list()] == [
        "PeerAuthentication shop/a",
        "VirtualService default/a",
        "VirtualService default/b",
    ]
    assert [one.key.name for one in store.list("virtualservice")] == ["a", "b"]
    assert [one.key.kind for one in store.list(namespace="shop")] == ["PeerAuthentication"]
    assert store.get(key("a")) == store.list("VirtualService", "default", "a")[0]


def test_deleting_what_is_not_there_is_no_revision(store: ObjectStore) -> None:
    """The answer is None."""
    assert store.delete(key("a"), "eva") is None
    assert store.revision == 0


def test_a_view_does_not_change_under_its_reader(store: ObjectStore) -> None:
    """`objects` is a copy."""
    view = store.objects()
    store.apply([route("a")], "eva")
    assert dict(view) == {}


@pytest.mark.parametrize("content", [b"this is no database at all, whatever it is", b"SQLite format 3\x00" + b"\xff" * 2000])
def test_a_damaged_database_says_what_to_do(path: Path, content: bytes) -> None:
    """And the file is left as it was."""
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"Move .* away, start again"):
        ObjectStore(path)
    assert path.read_bytes() == content


def test_a_page_that_went_bad_is_noticed_when_opened(path: Path) -> None:
    """Not in the middle of the night."""
    filled = ObjectStore(path)
    filled.apply([route(f"r{number}") for number in range(60)], "eva")
    filled.close()
    content = bytearray(path.read_bytes())
    content[4096:12288] = b"\x07" * 8192
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        ObjectStore(path)


def test_a_document_that_is_not_readable_is_damage(path: Path) -> None:
    """Whoever edited the table by hand is told."""
    filled = ObjectStore(path)
    filled.apply([route("a")], "eva")
    filled.close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE objects SET document = '{'")
    database.close()
    with pytest.raises(StoreError, match="damaged"):
        ObjectStore(path)


def test_a_database_of_a_newer_version_is_left_alone(path: Path) -> None:
    """Upgrade, or use another folder."""
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(StoreError, match="newer version"):
        ObjectStore(path)


def test_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    """SQLite alone says `unable to open database file`."""
    with pytest.raises(StoreError, match="folder exists"):
        ObjectStore(tmp_path / "missing" / "objects.db")


def test_a_full_disk_changes_nothing(store: ObjectStore) -> None:
    """Neither on disk nor in memory; afterwards it works again."""
    store.apply([route("a")], "eva")
    before = dict(store.objects())
    (pages,) = store._database.execute("PRAGMA page_count").fetchone()
    store._database.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StoreError, match=r"the disk is full\. Nothing has changed; free some space"):
        store.apply([route("a", 2), *(route(f"r{number}") for number in range(200))], "eva")
    assert dict(store.objects()) == before
    assert (store.revision, len(store.history())) == (1, 1)
    store._database.execute("PRAGMA max_page_count=1000000")
    store.apply([route("a", 2)], "eva")
    assert store.revision == 2


def test_a_database_in_use_says_so(path: Path, clock: Clock) -> None:
    """Two control planes on one data folder."""
    first, second = ObjectStore(path, clock), ObjectStore(path, clock)
    second._database.execute("PRAGMA busy_timeout=0")
    first._database.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another process holds it"):
        second.apply([route("a")], "eva")
    assert dict(second.objects()) == {}
    first._database.execute("ROLLBACK")
    first.close()
    second.close()


def test_it_is_a_write_ahead_log(store: ObjectStore) -> None:
    """A crash in the middle of a write leaves the last revision."""
    assert store._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


NAMES = st.sampled_from("abc")
STEPS = st.lists(
    st.tuples(st.just("apply"), st.dictionaries(NAMES, st.integers(0, 2), max_size=3)) | st.tuples(st.just("delete"), NAMES),
    max_size=12,
)


@given(steps=STEPS)
def test_revisions_grow_by_one_with_each_real_change(steps: list[tuple[str, object]]) -> None:
    """Against a plain dictionary: content, revisions, history and what a restart finds."""
    clock, model, revision = Clock(), dict[str, tuple[int, int, float]](), 0
    store = ObjectStore(":memory:", clock)
    for kind, what in steps:
        clock.now += 1
        if kind == "delete":
            assert isinstance(what, str)
            store.delete(key(what), "eva")
            revision += what in model
            model.pop(what, None)
            continue
        assert isinstance(what, dict)
        real = {name: weight for name, weight in what.items() if name not in model or model[name][0] != weight}
        store.apply([route(name, weight) for name, weight in what.items()], "eva")
        revision += bool(real)
        for name, weight in real.items():
            model[name] = (weight, revision, model[name][2] if name in model else clock.now)
    found = {one.key.name: (one.spec.http[0].route[0].weight, one.revision, one.created) for one in store.list()}
    kept = store._database.execute("SELECT name, document, revision, created FROM objects").fetchall()
    assert found == model
    assert store.revision == revision
    assert {row[0]: (json.loads(row[1])["spec"]["http"][0]["route"][0]["weight"], *row[2:]) for row in kept} == model
    numbers = [one.revision for one in reversed(store.history())]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, revision + 1))
    store.close()
