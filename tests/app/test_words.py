from __future__ import annotations

from pathlib import Path

import pytest

from score.app.words import read_words
from score.errors import ConfigError


def test_words_come_as_one_and_as_a_list() -> None:
    assert read_words(["ship", 747]) == ["ship", "747"]
    assert read_words("ship") == ["ship"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("words.txt", "ship\n\n  storage tank  # round\n# nothing\npool, swimming pool\n"),
        ("words", "\ufeffship\nstorage tank\npool, swimming pool"),
        ("words.csv", "ship\nstorage tank\n"),
        ("classes.csv", 'id,name\n1,ship\n2,"storage tank"\n3,"pool, swimming pool"\n'),
        ("classes.txt", 'Name,supercategory\nship,vehicle\nstorage tank,\n"pool, swimming pool",water\n'),
        ("words.json", '["ship", "storage tank", "pool, swimming pool"]'),
        ("words.yaml", "- ship\n- storage tank\n"),
        ("data.yaml", "path: ../data\ntrain: images\nnc: 2\nnames: [ship, storage tank]\n"),
        ("data.yml", "names:\n  0: ship\n  1: storage tank\n"),
    ],
)
def test_words_come_in_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    expected = ["ship", "storage tank", "pool, swimming pool"]
    assert read_words(str(tmp_path / name)) == expected[: 2 + ("pool" in text)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("words.txt", "names: [ship, plane]\n"),
        ("words.txt", '["ship", "plane"]'),
        ("words.txt", "0,ship\n1,plane\n"),
        ("words.csv", "1,ship\n2,plane\n"),
        ("words.yaml", "train: images\nval: images\n"),
        ("words.yaml", "names: 3\n"),
        ("words.json", "[1, 2]"),
        ("words.json", "["),
    ],
)
def test_files_of_something_else_are_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=rf"{name}: not a list of names; write one name a line"):
        read_words(str(tmp_path / name))


def test_words_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xfa")
    for source in ([], ["ship", "SHIP"], ["a-b", "a b"], [None], "", str(tmp_path / "empty.txt")):
        with pytest.raises(ConfigError):
            read_words(source)
    with pytest.raises(ConfigError, match="one name a line"):
        read_words({0: "ship", 1: "plane"})
    for name in ("missing.txt", "binary.txt"):
        with pytest.raises(ConfigError, match=name):
            read_words(str(tmp_path / name))


@pytest.mark.parametrize("words", [["ship", ["a", "b"]], [{"a": "b"}]])
def test_nested_words_are_refused(words: list) -> None:
    with pytest.raises(ConfigError, match="not a name"):
        read_words(words)


@pytest.mark.parametrize(("name", "text"), [("a.csv", "id,name\n1\n"), ("a.txt", "0 ship\n1 dam\n")])
def test_files_of_other_tables_are_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match="not a list of names"):
        read_words(str(tmp_path / name))
