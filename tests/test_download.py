"""Downloads from servers that fail in many ways: the right files or a sentence, never a hang."""

import hashlib
import io
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from damage import full_disk
from servers import Faults, serve_faults

from micranet_helpers.data.fetch import download, registry, transfer
from micranet_helpers.data.fetch.download import DownloadError, cached, fetch, remove
from micranet_helpers.files import archives

pytestmark = pytest.mark.faults
CONTENT = random.Random(0).randbytes(300_000)


def packed(files: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(image := io.BytesIO(), "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return image.getvalue()


def line(content: bytes, path: str, subset: str = "-", known: bool = True) -> str:
    digest = hashlib.sha256(content).hexdigest()
    return f"{digest} {len(content)} {subset} {path}" if known else f"- - {subset} {path}"


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MICRANET_DATA", str(tmp_path / "cache"))
    monkeypatch.delenv("MICRANET_MIRROR", raising=False)
    monkeypatch.setattr(transfer, "FIRST_WAIT", 0.002)
    monkeypatch.setattr(transfer, "MOST_WAIT", 0.01)
    monkeypatch.setattr(transfer, "READ_TIMEOUT", 10)


@pytest.fixture
def state() -> Faults:
    archive = packed({"a": b"x"})
    return Faults({"one": CONTENT, "two/b c": b"second", "three": b"", "z.zip": archive})


@pytest.fixture
def url(state: Faults) -> Iterator[str]:
    with serve_faults(state) as address:
        yield address


def toml(urls: list[str], lines: tuple[str, ...]) -> str:
    head = 'title = "T"\nlicence = "L"\ncitation = "C"\nurls = '
    return "\n".join(["[item]", head + json.dumps(urls), "files = '''", *lines, "'''"])


@pytest.fixture
def register(url: str, monkeypatch) -> Callable[..., None]:
    """Make a registry of one item ``"item"`` with the given lines."""

    def make(*lines: str, urls: tuple[str, ...] = ("",)) -> None:
        found = registry.parse(toml([base or url + "/" for base in urls], lines))
        monkeypatch.setattr(registry, "items", lambda: found)

    return make


def left_over(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if path.suffix in (".part", ".from")]


# --- the ordinary case -------------------------------------------------------------------------


def test_files_in_the_order_of_the_registry(state, register, tmp_path) -> None:
    register(line(CONTENT, "one", "s"), line(b"second", "two/b c"), line(b"", "three", "s"))
    root = tmp_path / "cache" / "item"
    assert fetch("item", "s") == [root / "one", root / "three"]
    assert not (root / "two" / "b c").exists()
    assert fetch("item") == [root / "one", root / "two" / "b c", root / "three"]
    assert (root / "one").read_bytes() == CONTENT
    assert (root / "two" / "b c").read_bytes() == b"second"
    assert len(state.requests) == 3, "files that are there were downloaded again"
    (root / "one").write_bytes(CONTENT[::-1])
    assert fetch("item")[0].read_bytes() == CONTENT and len(state.requests) == 4
    assert not left_over(tmp_path)


def test_file_put_there_by_hand(state, register, tmp_path) -> None:
    register(line(CONTENT, "one"), line(b"", "z.zip", known=False))
    state.always = "404"
    for name in ("one", "z.zip"):
        (tmp_path / "cache" / "item").mkdir(parents=True, exist_ok=True)
        (tmp_path / "cache" / "item" / name).write_bytes(state.files[name])
    assert (fetch("item")[1] / "a").read_bytes() == b"x" and not state.requests


def test_read_only_cache_needs_no_network(state, register, tmp_path) -> None:
    register(line(CONTENT, "one"), line(b"-", "z.zip", known=False))
    fetch("item")
    (tmp_path / "cache" / ".item.lock").unlink()
    (tmp_path / "cache").chmod(0o555)
    try:
        assert fetch("item")[0].read_bytes() == CONTENT and len(state.requests) == 2
    finally:
        (tmp_path / "cache").chmod(0o755)
    assert not (tmp_path / "cache" / ".item.lock").exists(), "a complete cache was locked"


def test_cached_and_remove(register, tmp_path) -> None:
    register(line(CONTENT, "one"), line(b"", "z.zip", known=False))
    assert cached() == {"item": 0} and remove("item") == 0
    fetch("item")
    size = cached()["item"]
    assert size > 300_000 and remove("item") == size
    assert cached() == {"item": 0} and not (tmp_path / "cache" / "item").exists()


def test_folder(monkeypatch) -> None:
    monkeypatch.setenv("MICRANET_DATA", "~/data")
    assert download.folder() == Path.home() / "data"
    monkeypatch.setenv("MICRANET_DATA", "data")
    assert download.folder() == Path.cwd() / "data"
    monkeypatch.delenv("MICRANET_DATA")
    assert download.folder().parts[-1] == "micranet" and download.folder().is_absolute()


# --- mirrors, second addresses -----------------------------------------------------------------


def test_mirror_stands_for_every_host(state, url, register, monkeypatch) -> None:
    state.files = {"up/host.org/x/one": CONTENT}
    register(line(CONTENT, "one"), urls=("https://host.org/x/",))
    monkeypatch.setenv("MICRANET_MIRROR", url + "/up/")
    fetch("item")
    assert state.requests == [("up/host.org/x/one", "")]


def test_a_file_without_a_hash_comes_over_https_only(register, monkeypatch) -> None:
    for base, mirror in (("http://host.invalid/", ""), ("https://x.invalid/", "http://m.invalid")):
        register(line(b"", "one", known=False), urls=(base,))
        monkeypatch.setenv("MICRANET_MIRROR", mirror)
        with pytest.raises(DownloadError, match="no hash .* from an address that begins with http"):
            fetch("item")


@pytest.mark.parametrize(
    ("fault", "first"),
    [("404", ""), ("500", ""), ("wrong", ""), ("shorter", ""), ("html", ""), ("drop", ""),
     ("", "http://127.0.0.1:9/"), ("", "http://nowhere.invalid/")],
)  # fmt: skip
def test_second_address(fault, first, state, url, register) -> None:
    register(line(CONTENT, "one"), urls=(first, url + "/"))
    state.faults = [fault] * (transfer.TRIES if fault in ("500", "drop") else 1)
    assert fetch("item")[0].read_bytes() == CONTENT


def test_offline_fails_at_once(register) -> None:
    address = "http://nowhere.invalid/"
    register(*(line(b"x", f"many/{n}") for n in range(300)), urls=(address, address))
    start = time.monotonic()
    with pytest.raises(DownloadError, match="cannot be reached") as caught:
        fetch("item")
    assert time.monotonic() - start < 15
    for words in ("(and 299 more) of item", "MICRANET_MIRROR", "by hand", "simulated"):
        assert words in str(caught.value)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("way", ["redirect /one", "chunks"])
def test_other_ways_to_send_a_file(way, known, state, register) -> None:
    register(line(CONTENT, "one", known=known))
    state.faults = [way]
    assert fetch("item")[0].read_bytes() == CONTENT


# --- faults ------------------------------------------------------------------------------------

BROKEN = ["cut 0", "cut 1", "cut 100000", "cut-chunks 5000", "drop", "stall 0", "stall 1000", "500",
          "503", "429 0", "429 3600", "429 soon", "503 Fri, 31 Dec 99999 00:00:00 GMT",
          "503 " + "9" * 5000, "408"]  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("known", [True, False])
def test_fault_that_passes(fault, known, state, register, tmp_path, monkeypatch) -> None:
    if "stall" in fault:
        monkeypatch.setattr(transfer, "READ_TIMEOUT", 0.2)
    register(line(CONTENT, "one", known=known))
    state.faults = [fault] * 2
    assert fetch("item")[0].read_bytes() == CONTENT
    assert len(state.requests) >= 3 and not left_over(tmp_path)
    if fault == "cut 100000":
        assert [wanted for _, wanted in state.requests] == ["", "bytes=100000-", "bytes=200000-"]
        wait_until(lambda: state.sent == len(CONTENT))  # the server counts after it has sent


@pytest.mark.parametrize(
    ("fault", "words"),
    [("404", "404"), ("403", "403"), ("500", "500"), ("429 0", "429"), ("drop", "breaks off"),
     ("cut 0", "breaks off"), ("stall 0", "stalls"), ("wrong", "another content"),
     ("longer", "300,001 bytes instead of 300,000"), ("shorter", "299,999 bytes instead of"),
     ("html", "web page instead of the file"), ("endless", "more than 300,000 bytes"),
     ("redirect /one", "redirects"), ("no-length 1000", "of 300,000 bytes")],
)  # fmt: skip
def test_fault_that_stays(fault, words, state, register, tmp_path, monkeypatch) -> None:
    if "stall" in fault:
        monkeypatch.setattr(transfer, "READ_TIMEOUT", 0.1)
    register(line(CONTENT, "one"))
    state.always = fault
    with pytest.raises(DownloadError, match=words) as caught:
        fetch("item")
    assert str(tmp_path / "cache" / "item" / "one") in str(caught.value)
    assert "\n" not in str(caught.value) and not (tmp_path / "cache" / "item" / "one").exists()
    assert state.sent < 40 * len(CONTENT)
    state.always = ""
    assert fetch("item")[0].read_bytes() == CONTENT and not left_over(tmp_path)


@pytest.mark.parametrize("fault", ["html", "no-length 300000", "empty", "404"])
def test_fault_that_stays_without_a_hash(fault, state, register, tmp_path) -> None:
    register(line(CONTENT, "one", known=False))
    state.always = fault
    with pytest.raises(DownloadError, match="web page|how long|is empty|404"):
        fetch("item")
    assert not list((tmp_path / "cache" / "item").iterdir())
    state.always = ""
    assert fetch("item")[0].read_bytes() == CONTENT


def test_endless_file_without_a_hash_does_not_fill_the_disk(state, register, monkeypatch) -> None:
    register(line(CONTENT, "one", known=False))
    state.always = "endless"
    disk = shutil.disk_usage("/")._replace(free=5_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    with pytest.raises(DownloadError, match="more than 2,500,000 bytes"):
        fetch("item")
    assert state.sent < 50_000_000


@pytest.mark.parametrize("fault", ["", "stale"])  # stale: a server that ignores If-Range
def test_file_that_changes_on_the_server(fault, state, register, monkeypatch) -> None:
    register(line(CONTENT, "one", known=False))
    monkeypatch.setattr(transfer, "MOST_TRIES", 1)
    state.faults = ["cut 100000"]
    with pytest.raises(DownloadError):
        fetch("item")
    monkeypatch.setattr(transfer, "MOST_TRIES", 3)
    state.files["one"], state.tag, state.faults = CONTENT[::-1], '"2"', [fault]
    assert fetch("item")[0].read_bytes() == CONTENT[::-1]
    assert state.requests[1][1] == "bytes=100000-"


def test_part_without_a_mark_is_not_continued_without_a_hash(state, register) -> None:
    register(line(CONTENT, "one", known=False))
    state.tag, state.faults = "", ["cut 100000"]
    assert fetch("item")[0].read_bytes() == CONTENT
    assert [wanted for _, wanted in state.requests] == ["", ""]


def test_one_missing_file_does_not_stop_the_others(state, register, tmp_path) -> None:
    register(line(b"x", "absent"), line(CONTENT, "one"), line(b"second", "two/b c"))
    with pytest.raises(DownloadError, match="absent of item could not be downloaded"):
        fetch("item")
    assert (tmp_path / "cache" / "item" / "one").read_bytes() == CONTENT
    assert (tmp_path / "cache" / "item" / "two" / "b c").read_bytes() == b"second"


@pytest.mark.parametrize("known", [True, False])
def test_faults_in_random_order(known, state, register, tmp_path) -> None:
    """15 batches of up to 12 faults: the right files or a sentence; then all is completed."""
    faults = [*BROKEN, "404", "html", "ignore-range", "bad-range", "shorter", "wrong", "longer"]
    if not known:  # whatever comes in full is trusted, that cannot be helped
        faults = faults[:-3]
    draw = random.Random(known)
    files = {f"{n}": draw.randbytes(draw.choice([0, 1, 5000, 200_000])) for n in range(4)}
    state.files = files
    register(*(line(content, name, known=known) for name, content in files.items()))
    failures = 0
    for _ in range(15):
        state.faults = [
            f"cut {draw.randrange(200_000)}" if draw.random() < 0.4 else draw.choice(faults)
            for _ in range(draw.randrange(12))
        ]
        state.faults = [fault for fault in state.faults if "stall" not in fault]
        try:
            paths = fetch("item")
        except DownloadError:
            failures += 1
            state.faults = []
            paths = fetch("item")
        assert {path.name: path.read_bytes() for path in paths} == files
        assert not left_over(tmp_path)
        remove("item")
    assert 0 < failures < 15, "some batches fail, some do not"


# --- trust on first use ------------------------------------------------------------------------


def test_trust_on_first_use(state, register, tmp_path, caplog) -> None:
    register(line(CONTENT, "one", known=False))
    with caplog.at_level(logging.WARNING):
        [path] = fetch("item")
    assert "No hash of one is published" in caplog.text
    record = path.with_name("one.sha256")
    assert record.read_text() == hashlib.sha256(CONTENT).hexdigest()
    caplog.clear()
    path.write_bytes(b"damaged")
    assert fetch("item")[0].read_bytes() == CONTENT and not caplog.text
    path.write_bytes(b"damaged")
    state.files["one"] = CONTENT[::-1]
    with pytest.raises(DownloadError, match="than at its first use .*data remove item"):
        fetch("item")
    remove("item")
    assert fetch("item")[0].read_bytes() == CONTENT[::-1]


# --- archives ----------------------------------------------------------------------------------


EVIL = packed({"a": b"", "../../../evil": b"x"})


@pytest.mark.parametrize(
    ("bad", "words"), [(EVIL[:-5], "was not unpacked"), (EVIL, "outside the folder")]
)
def test_bad_archive_is_not_trusted(bad, words, state, register, tmp_path) -> None:
    good = state.files["z.zip"]
    register(line(b"", "z.zip", known=False))
    state.files["z.zip"] = bad
    with pytest.raises(DownloadError, match=words):
        fetch("item")
    assert not list(tmp_path.rglob("evil")) and not list(tmp_path.rglob("z.zip*"))
    state.files["z.zip"] = good
    assert (fetch("item")[0] / "a").read_bytes() == b"x"


def test_unpacked_folder_follows_its_archive(state, register) -> None:
    register(line(state.files["z.zip"], "z.zip"))
    [folder] = fetch("item")
    state.files["z.zip"] = packed({"b": b"new"})
    register(line(state.files["z.zip"], "z.zip"))  # a newer version of the package
    state.always = "404"
    with pytest.raises(DownloadError):
        fetch("item")
    assert not folder.exists(), "the content of the old archive would be taken for the new"
    state.always = ""
    assert [path.name for path in fetch("item")[0].iterdir()] == ["b"]


# --- the disk, other processes, interruptions --------------------------------------------------


def test_full_disk_is_seen_first(state, register, monkeypatch) -> None:
    disk = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    register(line(CONTENT, "one"))
    with pytest.raises(DownloadError, match="MB are free: make room"):
        fetch("item")
    assert not state.requests
    register(line(CONTENT, "one", known=False))
    with pytest.raises(DownloadError, match="MB are free: make room"):
        fetch("item")
    assert state.sent < len(CONTENT)


def test_disk_that_fills_up(register) -> None:
    register(line(CONTENT, "one"), line(b"second", "two/b c"))
    with (
        full_disk(len(CONTENT) // 2),
        pytest.raises(DownloadError, match="File too large.*MICRANET_DATA"),
    ):
        fetch("item")
    assert fetch("item")[0].read_bytes() == CONTENT


def start_fetch(url: str, *lines: str) -> subprocess.Popen:
    code = f"""
from micranet_helpers.data.fetch import registry, download
found = registry.parse({toml([url + "/"], lines)!r})
registry.items = lambda: found
download.fetch("item")
"""
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)


def wait_until(happens: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not happens():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.002)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_killed_while_downloading(sign, known, state, url, register, tmp_path) -> None:
    text = line(CONTENT, "one", known=known)
    register(text)
    state.faults = ["slow 5000"]  # about 0.6 s
    process = start_fetch(url, text)
    part = tmp_path / "cache" / "item" / "one.part"
    wait_until(lambda: part.exists() and part.stat().st_size > 100_000)
    process.send_signal(sign)
    start = time.monotonic()
    process.communicate()
    assert process.returncode and time.monotonic() - start < 15
    before, held = state.sent, part.stat().st_size
    assert 100_000 < held < len(CONTENT)
    assert fetch("item")[0].read_bytes() == CONTENT and not left_over(tmp_path)
    assert state.requests[1] == ("one", f"bytes={held}-")
    assert state.sent - before <= len(CONTENT) - held + 200_000  # what was under way


def test_interrupted_while_the_server_stalls(state, url, tmp_path) -> None:
    state.always = "stall 1000"
    process = start_fetch(url, line(CONTENT, "one"))
    part = tmp_path / "cache" / "item" / "one.part"
    wait_until(lambda: part.exists() and part.stat().st_size == 1000)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    process.communicate()
    assert process.returncode and time.monotonic() - start < 15


@pytest.mark.slow
def test_killed_at_every_step(state, url, register, tmp_path) -> None:
    """A batch of files and an archive, killed again and again, then completed."""
    state.files |= {"z.zip": packed({f"{n}/{n}": b"x" * n for n in range(500)}), "many": CONTENT}
    lines = [line(CONTENT, "one"), "- - - many", "- - - z.zip"]
    register(*lines)
    state.always = "slow 20000"
    root = tmp_path / "cache" / "item"
    for place in ("one.part", "one", "many.sha256", "z.zip.unpacking", "z.zip.unpacked"):
        process = start_fetch(url, *lines)
        reached, ended = (root / place).exists, process.poll
        wait_until(lambda reached=reached, ended=ended: reached() or ended() is not None)
        process.kill()
        process.communicate()
    state.always = ""
    one, many, folder = fetch("item")
    assert one.read_bytes() == many.read_bytes() == CONTENT
    assert sum(path.is_file() for path in folder.rglob("*")) == 500
    assert not left_over(tmp_path)


def test_stopped_before_a_file_has_its_name(state, register, tmp_path, monkeypatch) -> None:
    register(line(CONTENT, "one"))

    def stopped(part: Path, path: Path) -> None:
        raise OSError("stopped here")

    with monkeypatch.context() as context, pytest.raises(DownloadError, match="stopped here"):
        context.setattr(download.os, "replace", stopped)
        fetch("item")
    assert left_over(tmp_path) == ["one.part"]
    assert fetch("item")[0].read_bytes() == CONTENT
    assert len(state.requests) == 1 and not left_over(tmp_path)


def test_killed_while_removing(register, tmp_path, monkeypatch) -> None:
    register(line(b"", "z.zip", known=False))
    fetch("item")

    def killed(path: Path) -> None:
        (path / "z.zip.unpacked" / "a").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(archives.shutil, "rmtree", killed)
        remove("item")
    assert (fetch("item")[0] / "a").read_bytes() == b"x"


def test_two_processes(state, url, register, tmp_path) -> None:
    state.always = "slow 10000"
    processes = [start_fetch(url, line(CONTENT, "one")) for _ in range(3)]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert len(state.requests) == 1


def test_stalled_threads_write_nothing_after_an_interruption(state, register) -> None:
    register(line(CONTENT, "one"))
    state.faults, before = ["cut 1000", "wait"], {*threading.enumerate()}

    def interrupt() -> None:
        wait_until(lambda: len(state.requests) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        fetch("item")
    late = [each for each in {*threading.enumerate()} - before if "_work" in each.name]
    assert late, "the one that waits for its answer; those of other tests come and go"
    wait_until(lambda: not any(each.is_alive() for each in late))
    part = download.folder() / "item" / "one.part"
    assert part.stat().st_size == 1000 and len(state.requests) == 2
    assert fetch("item")[0].read_bytes() == CONTENT


# --- the mirror of real data -------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "subset", "count"),
    [("mnist", "test", 2), ("em", "small", 64), ("phase-cells", "small", 24), ("actin", None, 18),
     ("tagan-actin", "small", 5), ("micranet-samples", "small", 9), ("pvivax", "small", 127),
     ("PhC-C2DL-PSC", None, 60), ("Fluo-N2DL-HeLa", None, 12)],
)  # fmt: skip
def test_real_files(name, subset, count, mirror_url, monkeypatch) -> None:
    monkeypatch.setenv("MICRANET_MIRROR", mirror_url)
    paths = fetch(name, subset)
    if paths[0].is_dir():  # an archive
        paths = list((paths[0] / name).rglob("*.tif"))
    assert len(paths) == count and all(path.is_file() for path in paths)
