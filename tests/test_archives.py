"""Unpacking: whatever an archive holds, the right files or a sentence, and nothing elsewhere."""

import errno
import gzip
import io
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micranet_helpers.files import archives
from micranet_helpers.files.archives import discard, unpack

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
def test_right_files(kind: str, tmp_path: Path) -> None:
    archive = KINDS[kind](tmp_path / kind, FILES)
    assert unpack(archive, tmp_path / "new" / "out") == tmp_path / "new" / "out"
    assert read(tmp_path / "new" / "out") == FILES
    assert sorted(os.listdir(tmp_path / "new")) == ["out"]


def test_zip_with_the_count_of_zip64(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    archive = make_zip(tmp_path / "archive", FILES)
    content = archive.read_bytes()
    archive.write_bytes(content[:-14] + b"\xff\xff\xff\xff" + content[-10:])
    assert read(unpack(archive, tmp_path / "out")) == FILES


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
    unpack(good, folder)
    assert read(folder) == FILES
    assert sorted(os.listdir(tmp_path)) == ["bad", "good", "out"]


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["../evil"], "outside"), (["a/../../evil"], "outside"), (["/tmp/evil"], "outside"),
        (["C:/evil"], "outside"), (["c:evil"], "outside"), (["a/.. /evil"], "outside"),
        (["..\\evil"], "backslash"), (["a\nb"], "plain text"), (["x" * 300], "too long"),
        (["a/" * 600 + "b"], "too long"),
        (["."], "no name"), (["a", "a"], "another one"), (["a", "A"], "another one"),
        (["a/x", "A/y"], "another one"), (["\u00e9", "e\u0301"], "another one"),
        (["stra\u00dfe", "STRASSE"], "another one"), (["a", "a."], "another one"),
        (["a", "a/b"], "another one"), (["a/b", "a"], "another one"), (["a/b", "A"], "another one"),
    ],
)  # fmt: skip
def test_names_that_are_refused(make: Callable, names: list, text: str, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zipfile, about a name that is there twice
        make(archive, [(name, b"content") for name in names])
    refused(archive, text)


def refused(archive: Path, text: str, **options: int) -> None:
    folder = archive.parent / "in"
    with pytest.raises(ValueError, match=text) as caught:
        unpack(archive, folder / "out", **options)
    assert str(caught.value).endswith("; get it anew.") and "\n" not in str(caught.value)
    assert sorted(os.listdir(archive.parent)) == sorted([archive.name, "in"])
    assert not os.listdir(folder)


def test_nul_in_a_name_of_a_zip(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "archive", {"aXb": b""})
    archive.write_bytes(archive.read_bytes().replace(b"aXb", b"a\0b"))
    refused(archive, "plain text")


@pytest.mark.parametrize("name", ["con", "a/NUL.txt", "ab:c", "x?y", "COM1 .tif"])
def test_names_that_windows_does_not_allow(name: str, tmp_path: Path, monkeypatch) -> None:
    archive = make_zip(tmp_path / "archive", {name: b""})
    assert read(unpack(archive, tmp_path / "out")) == {name: b""}
    discard(tmp_path / "out")
    monkeypatch.setattr(archives, "_ON_WINDOWS", True)
    refused(archive, "Windows")


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


def test_file_behind_a_link_is_not_written(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "archive", "w") as file:
        link = tarfile.TarInfo("a")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        file.addfile(link)
        file.addfile(tarfile.TarInfo("a/evil"))
    refused(tmp_path / "archive", "link or a device")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_zip_links_and_devices(kind: int, tmp_path: Path) -> None:
    info = zipfile.ZipInfo("member")
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "archive", "w") as file:
        file.writestr(info, "/etc/passwd")
    refused(tmp_path / "archive", "link or a device")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such bits")
def test_no_bits_of_the_archive_are_kept(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "archive", "w") as file:
        info = tarfile.TarInfo("program")
        info.mode = 0o7777
        file.addfile(info)
    unpack(tmp_path / "archive", tmp_path / "out")
    assert not (tmp_path / "out" / "program").stat().st_mode & 0o7111


def test_encrypted_zip(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "archive", {"a": b"x"}, zipfile.ZIP_STORED)
    content = bytearray(archive.read_bytes())
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(header) + flags] |= 1
    archive.write_bytes(content)
    refused(archive, "encrypted")


# --- bombs -------------------------------------------------------------------------------------


@every_kind
def test_declared_size(kind: str, tmp_path: Path) -> None:
    archive = KINDS[kind](tmp_path / "archive", {"a": bytes(60_000), "b": bytes(60_000)})
    refused(archive, "more than 100,000 bytes", most_bytes=100_000)
    assert read(unpack(archive, tmp_path / "out", most_bytes=120_000)).keys() == {"a", "b"}


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_ratio(make: Callable, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(archives, "LEAST_LIMIT", 1000)
    refused(make(tmp_path / "archive", {"zeros": bytes(3_000_000)}), "more than")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_many_members(make: Callable, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(archives, "MOST_MEMBERS", 10)
    refused(make(tmp_path / "archive", {str(n): b"" for n in range(11)}), "more than")


@pytest.mark.parametrize("declared", [10, 5_000_000])
def test_zip_whose_real_size_is_another(declared: int, tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "archive", {"zeros": bytes(1_000_000)})
    size, false = (number.to_bytes(4, "little") for number in (1_000_000, declared))
    archive.write_bytes(archive.read_bytes().replace(size, false))
    refused(archive, ".")


def test_tar_with_a_giant_name(tmp_path: Path) -> None:
    # tarfile would read a name into memory, of whatever size; here 100 MB of zeros.
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 10**8
    with gzip.open(tmp_path / "archive", "wb", compresslevel=1) as file:
        file.write(info.tobuf() + bytes(2**21))
    refused(tmp_path / "archive", "headers is too large")


def test_zeros_without_end(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(archives, "MOST_PADDING", 2**20)
    make_tar(tmp_path / "plain", {"a": b""}, "w")
    with gzip.open(tmp_path / "archive", "wb") as file:
        file.write((tmp_path / "plain").read_bytes() + bytes(2**22))
    (tmp_path / "plain").unlink()
    refused(tmp_path / "archive", "after its end")


def test_two_archives_in_one_file(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "archive", {"a": b""})
    archive.write_bytes(archive.read_bytes() * 2)
    refused(archive, "after its end")


# --- damage ------------------------------------------------------------------------------------


def outcome(archive: Path, content: bytes) -> str:
    """Unpack a damaged archive: "right", "wrong" or "refused", with nothing left elsewhere."""
    archive.write_bytes(content)
    try:
        right = read(unpack(archive, archive.parent / "out")) == FILES
        discard(archive.parent / "out")
    except ValueError as error:
        assert str(error).endswith("; get it anew.")
        right = None
    assert os.listdir(archive.parent) == [archive.name]
    return {True: "right", False: "wrong", None: "refused"}[right]


@every_kind
def test_truncated_anywhere(kind: str, tmp_path: Path) -> None:
    archive = KINDS[kind](tmp_path / "archive", FILES)
    content = archive.read_bytes()
    end = len(content.rstrip(b"\0")) + 1 if kind == "plain.tar" else len(content)
    cuts = sorted(random.Random(kind).sample(range(end), 100)) + [end - 1]
    assert {outcome(archive, content[:cut]) for cut in cuts} == {"refused"}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "plain.tar"])  # no checksum
def test_flipped_bits(kind: str, tmp_path: Path) -> None:
    archive = KINDS[kind](tmp_path / "archive", FILES)
    content, draw, outcomes = archive.read_bytes(), random.Random(kind), []
    for _ in range(400):
        mutant = bytearray(content)
        for _ in range(draw.choice([1, 1, 1, 2, 5])):
            mutant[draw.randrange(len(mutant))] ^= 1 << draw.randrange(8)
        outcomes.append(outcome(archive, mutant))
    assert "wrong" not in outcomes and outcomes.count("refused") > 100


@given(st.binary(max_size=2000), st.sampled_from([b"", b"PK\3\4", b"PK\5\6", b"\x1f\x8b\x08"]))
def test_noise(tmp_path_factory, noise: bytes, start: bytes) -> None:
    folder = tmp_path_factory.mktemp("noise")
    (folder / "archive").write_bytes(start + noise)
    refused(folder / "archive", ".")


def test_missing_archive(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no archive"):
        unpack(tmp_path / "archive", tmp_path / "out")


def test_full_disk_is_no_damage(tmp_path: Path, monkeypatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archives, "_copy", full)
    with pytest.raises(OSError, match="No space left"):
        unpack(make_zip(tmp_path / "archive", FILES), tmp_path / "out")
    assert os.listdir(tmp_path) == ["archive"]


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_killed_while_unpacking(make: Callable, tmp_path: Path) -> None:
    files = {f"{n}/{n}": b"x" * n for n in range(3000)}
    archive, folder = make(tmp_path / "archive", files), tmp_path / "out"
    code = "import sys; from pathlib import Path; from micranet_helpers.files.archives import *\n"
    code += "unpack(*map(Path, sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, archive, folder])
    part = tmp_path / "out.unpacking"
    while process.poll() is None and not (part.exists() and any(part.iterdir())):
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it was faster than the test"
    assert part.exists() and not folder.exists()
    assert read(unpack(archive, folder)) == files
    assert sorted(os.listdir(tmp_path)) == ["archive", "out"]


def test_a_full_disk_is_not_blamed_on_the_archive(tmp_path, monkeypatch) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("large", bytes(3000))
    disk = shutil.disk_usage(tmp_path)._replace(free=2000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    with pytest.raises(OSError, match="No space left"):
        unpack(archive, tmp_path / "out")
    assert archive.is_file() and not (tmp_path / "out").exists()
