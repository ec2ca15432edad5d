"""A watched folder of YAML files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshlib.errors import SettingsError
from meshlib_control.sources import files
from meshlib_control.sources.files import FileSource


def route(name: str, weight: int = 1) -> str:
    return (
        f"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\n"
        f"spec: {{hosts: [{name}], http: [{{route: [{{destination: {{host: a}}, weight: {weight}}}]}}]}}\n"
    )


def names(source: FileSource) -> list[str]:
    return sorted(key.name for key in source.objects)


def weight(source: FileSource, name: str) -> int:
    (found,) = (one for one in source.objects.values() if one.key.name == name)
    number: int = found.spec.http[0].route[0].weight
    return number


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.yaml").write_text(route("a"))
    return tmp_path


def test_a_folder_is_read_at_once(folder: Path) -> None:
    """With the folders below; hidden files and other endings are left out."""
    (folder / "deep").mkdir()
    (folder / "deep" / "b.yml").write_text(route("b"))
    (folder / "c.json").write_text('{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "c"}}')
    (folder / ".hidden.yaml").write_text("not: [valid")
    (folder / ".git").mkdir()
    (folder / ".git" / "d.yaml").write_text("not: [valid")
    (folder / "notes.txt").write_text("not: [valid")
    source = FileSource(folder)
    assert names(source) == ["a", "b", "c"]
    assert source.errors == ()
    assert {one.file for one in source.objects.values()} == {"a.yaml", "deep/b.yml", "c.json"}
    assert {one.source for one in source.objects.values()} == {files.SOURCE}


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A typing error in --config must not look like an empty mesh."""
    with pytest.raises(SettingsError, match=r"no folder .*missing"):
        FileSource(tmp_path / "missing")


def test_nothing_new_is_told_as_such(folder: Path) -> None:
    """`refresh` says whether anything is different."""
    source = FileSource(folder)
    assert source.refresh() is False
    (folder / "a.yaml").write_text(route("a", 5))
    assert source.refresh() is True
    assert weight(source, "a") == 5


def test_a_broken_file_keeps_its_last_good_content(folder: Path) -> None:
    """And is reported with its line until it is mended."""
    source = FileSource(folder)
    (folder / "a.yaml").write_text(route("a", 5).replace("hosts:", "host:"))
    (folder / "b.yaml").write_text(route("b"))
    assert source.refresh() is True
    assert names(source) == ["a", "b"]
    assert weight(source, "a") == 1
    assert [(error.file, error.line, error.field) for error in source.errors] == [("a.yaml", 4, "spec.host")]
    assert source.refresh() is False
    assert len(source.errors) == 1
    (folder / "a.yaml").write_text(route("a", 7))
    assert source.refresh() is True
    assert (weight(source, "a"), source.errors) == (7, ())


def test_a_file_that_was_never_good_holds_nothing(folder: Path) -> None:
    """The others count."""
    (folder / "b.yaml").write_text("kind: [")
    source = FileSource(folder)
    assert names(source) == ["a"]
    assert [error.file for error in source.errors] == ["b.yaml"]


def test_a_file_that_goes_takes_its_objects_and_errors_with_it(folder: Path) -> None:
    """What nobody declares is not in force."""
    (folder / "b.yaml").write_text(f"{route('b')}---\n{route('c')}")
    source = FileSource(folder)
    (folder / "b.yaml").write_text("kind: [")
    source.refresh()
    assert (names(source), len(source.errors)) == (["a", "b", "c"], 1)
    (folder / "b.yaml").unlink()
    source.refresh()
    assert (names(source), source.errors) == (["a"], ())


def test_a_file_that_cannot_be_decoded_is_an_error(folder: Path) -> None:
    """Latin-1 is not UTF-8."""
    source = FileSource(folder)
    (folder / "a.yaml").write_bytes(b"# caf\xe9\n")
    source.refresh()
    assert names(source) == ["a"]
    assert "cannot be read" in source.errors[0].problem


def test_the_same_object_in_two_files_is_an_error_that_names_both(folder: Path) -> None:
    """The file that was there before counts, whatever its name."""
    source = FileSource(folder)
    (folder / "0.yaml").write_text(route("a", 9))
    source.refresh()
    assert weight(source, "a") == 1
    (error,) = source.errors
    assert error.file == "0.yaml"
    assert "in two files: 0.yaml and a.yaml" in error.problem
    (folder / "a.yaml").unlink()
    source.refresh()
    assert (weight(source, "a"), source.errors) == (9, ())


def test_of_two_files_that_are_both_new_the_first_name_counts(folder: Path) -> None:
    """At the start nobody was there before; the rest of the second file waits until the conflict is gone."""
    (folder / "b.yaml").write_text(f"{route('b')}---\n{route('a', 9)}")
    source = FileSource(folder)
    assert (names(source), weight(source, "a")) == (["a"], 1)
    (folder / "b.yaml").write_text(route("b"))
    source.refresh()
    assert (names(source), source.errors) == (["a", "b"], ())


def test_an_object_may_move_from_one_file_to_another(folder: Path) -> None:
    """In one step that is no conflict, and it stays as old as it was."""
    times = iter((1.0, 2.0, 3.0))
    source = FileSource(folder, clock=lambda: next(times))
    (folder / "a.yaml").rename(folder / "z.yaml")
    source.refresh()
    assert (names(source), source.errors) == (["a"], ())
    assert [one.created for one in source.objects.values()] == [1.0]


def test_a_folder_that_has_gone_keeps_its_last_content(folder: Path) -> None:
    """A volume that is unmounted must not empty the mesh."""
    source = FileSource(folder)
    (folder / "a.yaml").rename(folder.parent / "saved.yaml")
    folder.rmdir()
    assert source.refresh() is True
    assert names(source) == ["a"]
    assert "gone" in source.errors[0].problem
    folder.mkdir()
    source.refresh()
    assert (names(source), source.errors) == ([], ())


def test_objects_without_a_namespace_are_in_the_given_one(folder: Path) -> None:
    """As with `apply -n`."""
    assert {key.namespace for key in FileSource(folder, "shop").objects} == {"shop"}


async def test_changes_are_told_when_they_make_a_difference(folder: Path) -> None:
    """A file that was only touched changes nothing."""
    signals: asyncio.Queue[str] = asyncio.Queue()
    seen: asyncio.Queue[list[str]] = asyncio.Queue()

    async def changes(_path: Path) -> AsyncIterator[object]:
        while True:
            yield await signals.get()

    source = FileSource(folder, changes=changes)
    async with source.watch(lambda: seen.put_nowait(names(source))):
        signals.put_nowait("touched")
        (folder / "b.yaml").write_text(route("b"))
        signals.put_nowait("b")
        assert await asyncio.wait_for(seen.get(), 10) == ["a", "b"]
        (folder / "a.yaml").unlink()
        signals.put_nowait("a")
        assert await asyncio.wait_for(seen.get(), 10) == ["b"]
    assert seen.empty()


async def test_what_changed_before_the_watch_began_is_not_missed(folder: Path) -> None:
    """Between reading and watching a file can be written."""
    seen: asyncio.Queue[list[str]] = asyncio.Queue()

    async def silence(_path: Path) -> AsyncIterator[object]:
        await asyncio.Event().wait()
        yield None

    source = FileSource(folder, changes=silence)
    (folder / "b.yaml").write_text(route("b"))
    async with source.watch(lambda: seen.put_nowait(names(source))):
        assert await asyncio.wait_for(seen.get(), 10) == ["a", "b"]


async def test_a_watch_that_fails_is_reported_and_tried_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system can run out of watches."""
    monkeypatch.setattr(files, "_AGAIN", 0.0)
    tries = 0
    seen: asyncio.Queue[int] = asyncio.Queue()

    async def changes(_path: Path) -> AsyncIterator[object]:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError("no watches left")
        yield None
        await asyncio.Event().wait()

    source = FileSource(folder, changes=changes)
    async with source.watch(lambda: seen.put_nowait(len(source.errors))):
        assert await asyncio.wait_for(seen.get(), 10) == 1
        assert await asyncio.wait_for(seen.get(), 10) == 0
    assert tries == 2


async def test_a_real_folder_is_really_watched(folder: Path) -> None:
    """With watchfiles: a written and a deleted file arrive."""
    seen: asyncio.Queue[list[str]] = asyncio.Queue()
    source = FileSource(folder)

    async def until(expected: list[str]) -> None:
        while await seen.get() != expected:
            pass

    async with source.watch(lambda: seen.put_nowait(names(source))):
        for number in range(100):  # the first writes may come before the watch has begun
            (folder / "b.yaml").write_text(route("b", number))
            if not seen.empty():
                break
            await asyncio.sleep(0.05)
        await asyncio.wait_for(until(["a", "b"]), 10)
        (folder / "b.yaml").unlink()
        await asyncio.wait_for(until(["a"]), 10)
