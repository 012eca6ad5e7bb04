"""The registry: complete, readable, and in agreement with the manifest of the real data."""

import csv
import re
from urllib.parse import quote, unquote

import pytest

from micranet_helpers.data.fetch import registry
from micranet_helpers.data.fetch.registry import items, select

each_item = pytest.mark.parametrize("name", items())


@each_item
def test_item(name: str) -> None:
    item = items()[name]
    assert item.title and item.licence and item.citation and item.files
    assert "|" not in item.title + item.licence + item.citation, "it would break the table"
    for file in item.files:
        assert re.fullmatch("[0-9a-f]{64}|md5:[0-9a-f]{32}", file.hash or "0" * 64)
        assert file.bytes is None or file.bytes >= 0
        assert all(url.startswith("https://") and url.endswith(quote(file.path))
                   for url in file.urls)


@each_item
def test_no_two_files_meet_on_the_disk(name: str) -> None:
    beside = ("", ".part", ".part.from", ".sha256", ".unpacked", ".unpacked.unpacking")
    taken = [(file.path + end).casefold() for file in items()[name].files for end in beside]
    folders = {path[:at] for path in taken for at, sign in enumerate(path) if sign == "/"}
    assert len(set(taken)) == len(taken) and not folders & set(taken)
    assert not any(path.startswith("/") or ".." in path.split("/") for path in taken)


def test_subsets() -> None:
    test, train = select("mnist", "test"), select("mnist", "train")
    assert [file.path[:4] for file in test] == ["t10k", "t10k"] and len(train) == 2
    assert {file.path for file in select("mnist")} == {file.path for file in test + train}
    assert len(test[0].urls) == 2
    with pytest.raises(ValueError, match="no subset 'val'; choose one of: test, train"):
        select("mnist", "val")
    with pytest.raises(ValueError, match=r"choose one of: \(none\)"):
        select("actin", "small")
    with pytest.raises(ValueError, match="no data set 'minst'; choose one of: mnist, pvivax"):
        select("minst")


@pytest.mark.data
def test_registry_agrees_with_the_manifest(mirror) -> None:
    with (mirror.parent / "manifest.tsv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t")]
    known = {file.urls[0]: (item, file) for item in items().values() for file in item.files}
    for row in rows:
        if row["dataset"] == "mnist-unet":  # settings of a baseline, of no use here
            continue
        item, file = known[row["url"]]
        assert row["licence"] in item.licence
        if row["dataset"] == "ctc":  # the mirror's archives are not the official ones
            assert file.hash is file.bytes is None
            continue
        assert (file.hash, file.bytes) == (row["sha256"], int(row["bytes"]))
        assert unquote(row["url"]).endswith("/" + file.path)
        assert file.subset != "small" or row["in_mirror"] == "yes"
    hashed = [file for _, file in known.values() if file.hash]
    assert len(hashed) == len(rows) - 3, "files with a hash that the manifest does not have"


def rows_of(table: str) -> dict[str, list[str]]:
    head, rule, *rows = table.splitlines()
    assert set(rule) <= set("| -")
    assert len({line.count("|") for line in (head, rule, *rows)}) == 1
    cells = ([cell.strip() for cell in row.split("|")[1:-1]] for row in rows)
    return {name: rest for name, *rest in cells}


def test_tables() -> None:
    sizes = rows_of(registry.table({"mnist": 1_648_877}))
    licence = "none stated (MNIST)"
    assert set(sizes) == set(registry.items())
    assert sizes["mnist"] == ["11.6", "1.6", "test (1.7), train (9.9)", "published", licence]
    assert sizes["bbbc041"][:4] == ["?", "0.0", "", "trusted on first use"]
    item = registry.items()["em"]
    cited = rows_of(registry.citations())
    assert cited["em"] == [item.title, item.citation]
    named = [name for names in cited for name in names.split(", ")]
    assert sorted(named) == sorted(registry.items()), "each item once, beside those of its work"


def test_listing() -> None:
    text = registry.listing({"mnist": 1_648_877})
    assert "mnist: 11.6 MB, 1.6 MB on this disk; subsets: test (1.7), train (9.9)\n" in text
    assert "bbbc041: ? MB, 0.0 MB on this disk\n" in text
    words = text.split()
    for item in registry.items().values():
        assert set(f"{item.licence} {item.citation} {item.title}".split()) <= set(words)
    assert max(map(len, text.splitlines())) <= 96
