"""Download data sets into a cache folder, and verify them.

Files are at ``folder() / NAME / PATH``, where the environment variable ``MICRANET_DATA`` sets the
folder. With ``MICRANET_MIRROR=http://host/...`` each ``https://HOST/PATH`` is taken from
``MIRROR/HOST/PATH``, for laboratories behind a firewall. What was broken off is resumed by the next
:func:`fetch`; what is there is verified by its hash and not downloaded again. pooch has neither
resume, mirrors, parallel downloads nor trust on first use. One transfer is in
:mod:`micranet_helpers.data.fetch.transfer`.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread

import pooch
from filelock import FileLock, Timeout
from tqdm import tqdm

from micranet_helpers.data.fetch import registry, transfer
from micranet_helpers.data.fetch.registry import File
from micranet_helpers.data.fetch.transfer import DownloadError, FileError, HostError
from micranet_helpers.files.archives import discard, unpack
from micranet_helpers.files.atomic import write_atomically

_log = logging.getLogger(__name__)


# --- the cache ---------------------------------------------------------------------------------


def folder() -> Path:
    """Find the folder of downloaded files.

    It is that of the environment variable ``MICRANET_DATA``, or ``downloads`` in
    ``MICRANET_WORKDIR`` (:mod:`micranet_helpers.lessons.workdir`), or the platform's for caches.
    """
    work = os.environ.get("MICRANET_WORKDIR")
    default = Path(work, "downloads") if work else pooch.os_cache("micranet")
    place = Path(os.environ.get("MICRANET_DATA") or default)
    return place.expanduser().absolute()


def cached() -> dict[str, int]:
    """Measure the bytes of each data set on the disk, unpacked and unfinished files included."""
    return {name: _size_of_item(name) for name in registry.items()}


def remove(name: str) -> int:
    """Delete a data set from the cache, with all records about it; return the bytes freed.

    Raises ValueError if there is no such item, OSError if a file cannot be deleted.
    """
    registry.select(name)
    if not folder().is_dir():
        return 0
    with _locked(name):
        size = _size_of_item(name)
        discard(folder() / name)
    return size


def fetch(name: str, subset: str | None = None) -> list[Path]:
    """Find the files of an item of the registry, e.g. ``"mnist"``; download what is missing.

    ``subset`` is a part of it, e.g. ``"test"``; by default everything. The paths are in the order
    of the registry; for an archive it is the folder with its content. Raises ValueError if there is
    no such item or subset, or ``MICRANET_MIRROR`` is no address; DownloadError if files are missing
    and cannot be downloaded.

    Every file is verified by its hash, each time. Where none is published, the file is trusted on
    first use, over https only: its SHA-256 is recorded in ``FILE.sha256`` and compared ever after;
    to accept new content, :func:`remove` the item first. Unpacked files are not verified again.
    """
    files = registry.select(name, subset)
    root = folder() / name
    try:
        # Looked at without the lock first: a complete cache may be read-only.
        if not all(_is_ready(root, file) for file in files):
            with _locked(name):
                _fetch_missing(name, root, files)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"The cache folder {folder()} cannot be used ({error}): free some space, or set "
            "MICRANET_DATA to another folder."
        ) from error
    return [_result(root, file) for file in files]


def _beside(root: Path, file: File, ending: str) -> Path:
    return root / (file.path + ending)


def _result(root: Path, file: File) -> Path:
    return _beside(root, file, ".unpacked" if file.is_archive else "")


def _record(root: Path, file: File) -> Path:
    return _beside(root, file, ".sha256")


def _known_hash(root: Path, file: File) -> str | None:
    if file.hash or not _record(root, file).is_file():
        return file.hash
    return _record(root, file).read_text(encoding="ascii", errors="replace").strip() or None


def _is_ready(root: Path, file: File) -> bool:
    known, path = _known_hash(root, file), root / file.path
    there = path.is_file() and _result(root, file).exists()
    return known is not None and there and _has_hash(path, known)


def _has_hash(path: Path, known: str) -> bool:
    algorithm, _, digest = known.rpartition(":")
    return pooch.file_hash(path, alg=algorithm or "sha256") == digest


def _size_of_item(name: str) -> int:
    # What an interrupted removal has left counts, too.
    places = (folder() / name, folder() / f"{name}.discarded")
    return sum(transfer.file_size(path) for place in places for path in place.rglob("*"))


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    folder().mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder() / f".{name}.lock")
    try:
        held = lock.acquire(timeout=1)
    except Timeout:
        _log.warning("Another process is downloading %s; waiting for it.", name)
        held = lock.acquire()
    with held:
        yield


# --- a batch of files --------------------------------------------------------------------------


def _fetch_missing(name: str, root: Path, files: list[File]) -> None:
    missing = [file for file in files if not _is_ready(root, file)]
    for parent in {(root / file.path).parent for file in missing}:
        parent.mkdir(parents=True, exist_ok=True)
    total = sum(file.bytes or 0 for file in missing)
    parts = (_beside(root, file, ".part") for file in missing if file.bytes)
    transfer.require_space(root, total - sum(map(transfer.file_size, parts)))
    bar = tqdm(desc=name, total=total or None, unit="B", unit_scale=True)
    with transfer.open_session() as session, bar:
        ended = _run(transfer.Batch(root, _mirror(), session, bar, Event()), missing)
    for file, error in ended.items():
        if error is None:
            _finish(root, file)
    _raise_failures(root, missing, ended)


def _run(batch: transfer.Batch, files: list[File]) -> dict[File, Exception | None]:
    """Provide files until one fails by the host or the disk: so would all others."""
    done: SimpleQueue[tuple[File, Exception | None]] = SimpleQueue()
    # Daemons, unlike those of concurrent.futures, do not keep an interrupted program waiting for
    # the network. One that wakes up later sees the stop and changes nothing any more.
    work = (batch, iter(files), done)
    threads = [Thread(target=_work, args=work, daemon=True) for _ in range(transfer.CONNECTIONS)]
    ended: dict[File, Exception | None] = {}
    try:
        for thread in threads:
            thread.start()
        while len(ended) < len(files):
            with contextlib.suppress(Empty):
                file, error = done.get(timeout=1)  # Windows sees Ctrl-C only between two waits
                ended[file] = error
                if not isinstance(error, FileError | None):
                    break
    finally:
        batch.stop.set()
        for thread in filter(Thread.is_alive, threads):
            thread.join(1 / transfer.CONNECTIONS)  # s
    return ended


def _work(batch: transfer.Batch, todo: Iterator[File], done: SimpleQueue) -> None:
    for file in todo:  # all threads share one iterator
        if batch.stop.is_set():
            return
        try:
            _provide(batch, file)
            done.put((file, None))
        except Exception as error:
            done.put((file, error))


def _raise_failures(root: Path, files: list[File], ended: dict[File, Exception | None]) -> None:
    # The last error is the one that ended the batch.
    failed = [file for file, error in ended.items() if error][::-1]
    missing = [*failed, *(file for file in files if file not in ended)]
    if not missing:
        return
    error = ended[missing[0]]
    if not isinstance(error, FileError | HostError):
        raise error
    more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    raise DownloadError(
        f"{missing[0].path}{more} of {root.name} could not be downloaded: {error}. Try again "
        "later, set MICRANET_MIRROR to the address of a mirror, put the file there by hand: "
        f"{root / missing[0].path}, or go on with the simulated data."
    ) from error


def _provide(batch: transfer.Batch, file: File) -> None:
    """Take a file from the first address that has it, unless it is there."""
    path, known = batch.root / file.path, _known_hash(batch.root, file)
    if path.is_file() and (known is None or _has_hash(path, known)):
        return
    if file.is_archive:
        discard(_result(batch.root, file))  # it may be of another content
    part = _beside(batch.root, file, ".part")
    transfer.advance(batch, transfer.file_size(part))
    errors: list[Exception] = []
    for url in file.urls:
        if batch.mirror:
            url = f"{batch.mirror}/{url.removeprefix('https://')}"
        try:
            return _download(transfer.Transfer(url, part, file, known, batch))
        except (FileError, HostError) as error:
            errors.append(error)
    alive = any(isinstance(error, FileError) for error in errors)
    raise (FileError if alive else HostError)("; ".join(dict.fromkeys(map(str, errors))))


def _download(one: transfer.Transfer) -> None:
    transfer.complete(one)
    root, file = one.batch.root, one.file
    if one.known and not _has_hash(one.part, one.known):
        one.drop()
        advice = "" if file.hash else (
            f" than at its first use (recorded in {_record(root, file)}); if you trust the "
            f"new one, remove the old first: micranet-book data remove {root.name}"
        )
        raise FileError(f"{one.url} has another content (hash){advice}")
    one.note.unlink(missing_ok=True)  # first: a run killed between the two leaves no note behind
    os.replace(one.part, root / file.path)


def _finish(root: Path, file: File) -> None:
    # Not in a thread, so that Ctrl-C leaves nothing behind that still unpacks.
    path, known = root / file.path, _known_hash(root, file)
    if file.is_archive:
        try:
            unpack(path, _result(root, file))
        except ValueError as error:
            if known is None:
                path.unlink()
            raise DownloadError(str(error)) from error
    if known is None:
        write_atomically(_record(root, file), pooch.file_hash(path).encode())
        _log.warning(
            "No hash of %s is published: its present content is trusted, recorded in %s and "
            "verified from now on.", file.path, _record(root, file).name,
        )


def _mirror() -> str:
    mirror = os.environ.get("MICRANET_MIRROR", "").rstrip("/")
    if mirror and not mirror.startswith(("http://", "https://")):
        raise ValueError(f"MICRANET_MIRROR must begin with http:// or https://, not {mirror!r}.")
    return mirror
