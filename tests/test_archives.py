"""Unpacking: whatever an archive holds, the right files or a sentence, and nothing elsewhere."""

import io
import os
import random
import signal
import stat
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import damaged, full_disk
from hypothesis import given
from hypothesis import strategies as st

from micranet_helpers.files import archives
from micranet_helpers.files.archives import discard, unpack

pytestmark = pytest.mark.faults
NOISE = random.Random(0).randbytes(300)
FILES = {"a/one.txt": b"one " * 50, "a/b/two.bin": NOISE, "empty": b"", "ä ö.txt": b"umlauts"}


Files = dict[str, bytes] | list[tuple[str, bytes]]


def make_zip(path: Path, files: Files, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in files.items() if isinstance(files, dict) else files:
            file.writestr(zipfile.ZipInfo(name), content, method)
    return path


def make_tar(path: Path, files: Files, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as file:
        for name, content in files.items() if isinstance(files, dict) else files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def read(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


KINDS = {
    "stored.zip": lambda path, files: make_zip(path, files, zipfile.ZIP_STORED),
    "deflated.zip": make_zip,
    "bzip2.zip": lambda path, files: make_zip(path, files, zipfile.ZIP_BZIP2),
    "plain.tar": lambda path, files: make_tar(path, files, "w"),
    "gzip.tar.gz": make_tar,
    "bzip2.tar.bz2": lambda path, files: make_tar(path, files, "w:bz2"),
    "xz.tar.xz": lambda path, files: make_tar(path, files, "w:xz"),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_old_folder_is_replaced_only_by_a_complete_one(kind: str, tmp_path: Path) -> None:
    good = KINDS[kind](tmp_path / "good", FILES)
    bad = KINDS[kind](tmp_path / "bad", {"new": b"x", "../out": b"x"})
    folder = tmp_path / "out"
    for name in ("out", "out.unpacking", "out.discarded"):  # left over by killed runs
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").write_bytes(b"")
    with pytest.raises(ValueError, match="outside the folder"):
        unpack(bad, folder)
    assert read(folder) == {"old": b""}
    for place in (folder, tmp_path / "new" / "out"):
        assert unpack(good, place) == place and read(place) == FILES
    assert sorted(os.listdir(tmp_path)) == ["bad", "good", "new", "out"]


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["../evil"], "outside"), (["a/../../evil"], "outside"), (["/tmp/evil"], "outside"),
        (["x" * 300], "too long"), (["."], "exists"), (["a", "a"], "exists"),
        (["a", "a/b"], "directory|exists"), (["a", "a/b/c"], "irectory|exists"),
        (["a/b", "a"], "exists|directory"),
    ],
)  # fmt: skip
def test_names_that_are_refused(make: Callable, names: list, text: str, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zipfile, about a name that is there twice
        make(archive, [(name, b"content") for name in names])
    refused(archive, text)


def refused(archive: Path, text: str) -> None:
    folder = archive.parent / "in"
    with pytest.raises(ValueError, match=text) as caught:
        unpack(archive, folder / "out")
    assert str(caught.value).endswith("; download it again.") and "\n" not in str(caught.value)
    assert sorted(os.listdir(archive.parent)) == sorted([archive.name, "in"])
    assert not os.listdir(folder)


def test_names_that_are_harmless(tmp_path: Path) -> None:
    names = ["./a/b", "a//c", "console", "a.b.", "...c", "[7104, 8128].tif", "a'b", "auxiliary"]
    files = {name: name.encode() for name in names}
    found = read(unpack(make_tar(tmp_path / "archive", files), tmp_path / "out"))
    assert found == {os.path.normpath(name): content for name, content in files.items()}


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE,
     tarfile.GNUTYPE_SPARSE, b"Z"],
)  # fmt: skip
def test_tar_links_and_devices(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "archive", "w:gz") as file:
        info = tarfile.TarInfo("member")
        info.type, info.linkname = kind, "/etc/passwd"
        file.addfile(info)
    refused(tmp_path / "archive", "link or a device")


def test_links_in_a_zip_are_plain_text(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("member")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "archive", "w") as file:
        file.writestr(info, "/etc/passwd")
    member = unpack(tmp_path / "archive", tmp_path / "out") / "member"
    assert not member.is_symlink() and member.read_text() == "/etc/passwd"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such bits")
def test_no_bits_of_the_archive_are_kept(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "archive", "w") as file:
        info = tarfile.TarInfo("program")
        info.mode = 0o7777
        file.addfile(info)
    unpack(tmp_path / "archive", tmp_path / "out")
    assert not (tmp_path / "out" / "program").stat().st_mode & 0o7111


# --- bombs -------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("sizes", [[3_000_000], [60_000] * 50])
def test_more_than_an_archive_of_this_size_may_hold(kind, sizes, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(archives, "MOST_RATIO", 0)
    monkeypatch.setattr(archives, "LEAST_LIMIT", 2_900_000)
    files = {f"{n}": bytes(size) for n, size in enumerate(sizes)}
    archive = KINDS[kind](tmp_path / "archive", files)
    refused(archive, "more than 2,900,000 bytes")
    monkeypatch.setattr(archives, "LEAST_LIMIT", 3_000_000)
    assert read(unpack(archive, tmp_path / "out")) == files


@every_kind
def test_more_members_than_any_dataset_has(kind: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(archives, "MOST_MEMBERS", 3)
    files = {f"{n}": b"" for n in range(4)}
    refused(KINDS[kind](tmp_path / "archive", files), "more than 3 members")
    assert len(read(unpack(KINDS[kind](tmp_path / "archive", dict([*files.items()][:3])),
                           tmp_path / "out"))) == 3  # fmt: skip


def test_zip_that_declares_less_than_it_holds(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "archive", {"zeros": bytes(1_000_000)})
    size, false = (number.to_bytes(4, "little") for number in (1_000_000, 10))
    archive.write_bytes(archive.read_bytes().replace(size, false))
    refused(archive, ".")


# --- damage ------------------------------------------------------------------------------------


def outcome(archive: Path, content: bytes) -> str:
    """Unpack a damaged archive: "right", "wrong" or "refused", with nothing left elsewhere.

    A damaged table of contents may hide a file, but what is unpacked is right.
    """
    archive.write_bytes(content)
    try:
        right = read(unpack(archive, archive.parent / "out")).items() <= FILES.items()
        discard(archive.parent / "out")
    except ValueError as error:
        assert str(error).endswith("; download it again.")
        right = None
    assert os.listdir(archive.parent) == [archive.name]
    return {True: "right", False: "wrong", None: "refused"}[right]


checked_kind = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "plain.tar"])


@checked_kind
def test_truncated_anywhere(kind: str, tmp_path: Path) -> None:
    archive = KINDS[kind](tmp_path / "archive", FILES)
    content = archive.read_bytes()
    cuts = [*sorted(random.Random(kind).sample(range(len(content)), 100)), len(content) - 1]
    assert {outcome(archive, content[:cut]) for cut in cuts} == {"refused"}


@checked_kind
def test_damaged(kind: str, tmp_path: Path) -> None:
    archive = KINDS[kind](tmp_path / "archive", FILES)
    spoilt = damaged(archive.read_bytes(), 200, fill=False)  # zeros could pass as an empty file
    outcomes = [outcome(archive, mutant) for mutant in spoilt]
    assert "wrong" not in outcomes and outcomes.count("refused") > 50


@given(st.binary(max_size=2000), st.sampled_from([b"", b"PK\3\4", b"PK\5\6", b"\x1f\x8b\x08"]))
def test_noise(tmp_path_factory, noise: bytes, start: bytes) -> None:
    folder = tmp_path_factory.mktemp("noise")
    (folder / "archive").write_bytes(start + noise)
    refused(folder / "archive", ".")


def test_missing_archive(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no archive"):
        unpack(tmp_path / "archive", tmp_path / "out")


def test_a_full_disk_is_not_blamed_on_the_archive(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "archive", {"large": bytes(100_000)})
    with full_disk(50_000), pytest.raises(OSError, match="File too large"):
        unpack(archive, tmp_path / "out")
    assert os.listdir(tmp_path) == ["archive"]


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from micranet_helpers.files.archives import unpack

def copy(*args, copy=shutil.copyfileobj, left=iter(range(int(sys.argv[3])))):
    copy(*args)
    if next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)

shutil.copyfileobj = copy
unpack(*map(Path, sys.argv[1:3]))
"""


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("after", [0, 5, 9])
def test_killed_while_unpacking(make: Callable, after: int, tmp_path: Path) -> None:
    files = {f"{n}/{n}": b"x" * n for n in range(10)}
    archive, folder = make(tmp_path / "archive", files), tmp_path / "out"
    command = [sys.executable, "-c", KILLED, archive, folder, str(after)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert (tmp_path / "out.unpacking").exists() and not folder.exists()
    assert read(unpack(archive, folder)) == files
    assert sorted(os.listdir(tmp_path)) == ["archive", "out"]


def test_a_zip_that_lists_fewer_members_than_it_counts_is_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "archive", {"a": b"1", "b": b"2"})
    data = bytearray(archive.read_bytes())
    data[data.rfind(b"PK\5\6") + 10] = 3
    archive.write_bytes(data)
    refused(archive, "table of contents")
