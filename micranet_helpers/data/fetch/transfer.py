"""Fetch one file over HTTP: go on where a transfer broke off, wait and try again.

What is received is kept in a part file beside the file, with a note of the address and of the
server's mark of the version (ETag or date), so that a later run can go on with it. A web page,
another size or more bytes than announced are refused at once.
"""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from threading import Event
from typing import NamedTuple
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from tqdm import tqdm

from micranet_helpers.data.fetch.registry import MEGABYTE, File

CONNECT_TIMEOUT = 10.0  # s
READ_TIMEOUT = 30.0  # s without any data
TRIES = 4  # exchanges without progress before an address is given up
MOST_TRIES = 30  # exchanges with progress
FIRST_WAIT, MOST_WAIT = 0.5, 30.0  # s between tries; doubled each time
CONNECTIONS = 8  # at the same time
UNPACKED = 2  # space that is kept for unpacking, in sizes of the archive
CHUNK = 2**18


class DownloadError(OSError):
    """Files are missing and could not be downloaded; the text says which, why and what to do."""


class FileError(Exception):
    """This address does not have the right file; another one may."""


class HostError(Exception):
    """This host cannot be reached or fails again and again."""


class _BrokenOffError(Exception):
    """The transfer ended early; trying again may help, after ``pause`` seconds if given."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class StoppedError(Exception):
    """Another thread has ended the batch."""


class Batch(NamedTuple):
    """What the threads of one :func:`~micranet_helpers.data.fetch.download.fetch` share."""

    root: Path
    mirror: str
    session: requests.Session
    bar: tqdm
    stop: Event


class Transfer(NamedTuple):
    """One file from one address."""

    url: str
    part: Path  # what has been received so far
    file: File
    known: str | None  # hash; without it only an unchanged file is resumed
    batch: Batch

    @property
    def note(self) -> Path:
        """File with the address and the server's mark of the version of the part."""
        return self.part.with_name(self.part.name + ".from")

    @property
    def size(self) -> int:
        """Bytes received so far."""
        return file_size(self.part)

    def drop(self) -> None:
        """Begin anew."""
        advance(self.batch, -self.size)
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def file_size(path: Path) -> int:
    """Return the bytes of a file, 0 if there is none."""
    return path.stat().st_size if path.is_file() else 0


def open_session() -> requests.Session:
    """Open connections that several transfers share; files come as they are, not compressed."""
    session = requests.Session()
    session.headers["Accept-Encoding"] = "identity"  # the bytes of the file, with its length
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=CONNECTIONS))
    return session


def advance(batch: Batch, count: int) -> None:
    """Move the progress bar that the threads share, by a number of bytes."""
    with batch.bar.get_lock():
        batch.bar.update(count)


def require_space(place: Path, needed: int) -> None:
    """Raise :class:`DownloadError` if the disk of a folder has less free space, bytes."""
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DownloadError(
            f"{needed / MEGABYTE:,.0f} MB are needed in {place}, {free / MEGABYTE:,.0f} MB are "
            "free: make room (see: micranet-book data), or set MICRANET_DATA to another folder."
        )


def complete(transfer: Transfer) -> None:
    """Talk to the server until the part is the whole file; go on with a part that is there.

    Raises FileError, HostError, StoppedError, or DownloadError if the disk has no room.
    """
    idle = 0
    for _ in range(MOST_TRIES):
        before = transfer.size
        try:
            return _exchange(transfer)
        except _BrokenOffError as error:
            reason = error
        idle = 0 if transfer.size > before else idle + 1
        if idle == TRIES:
            break
        pause = FIRST_WAIT * 2**idle if reason.pause is None else reason.pause
        if transfer.batch.stop.wait(min(pause, MOST_WAIT)):
            raise StoppedError
    raise HostError(f"{transfer.url}: {reason}")


def _exchange(transfer: Transfer) -> None:
    if 0 < transfer.size == transfer.file.bytes:
        return  # killed after the last byte
    _check_origin(transfer, [transfer.url])
    headers, timeout = _resume(transfer), (CONNECT_TIMEOUT, READ_TIMEOUT)
    get = transfer.batch.session.get
    try:
        with get(transfer.url, headers=headers, stream=True, timeout=timeout) as response:
            if transfer.batch.stop.is_set():
                raise StoppedError
            _check_origin(transfer, [each.url for each in (*response.history, response)])
            total = _accept(response, transfer)
            _receive(response, transfer, total)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _explained(transfer.url, error) from error


def _explained(url: str, error: Exception) -> Exception:
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    never = (requests.ConnectTimeout, requests.exceptions.ProxyError, requests.exceptions.SSLError)
    if isinstance(error, requests.TooManyRedirects | requests.exceptions.InvalidURL):
        return FileError(f"{url}: {error}")
    if isinstance(error, never) or isinstance(reason, urllib3.exceptions.NewConnectionError):
        host, why = urlsplit(url).netloc, type(reason or error).__name__
        return HostError(f"{host} cannot be reached ({why})")
    return _BrokenOffError(f"the connection breaks off or stalls ({type(error).__name__})")


def _resume(transfer: Transfer) -> dict[str, str]:
    """Make headers that ask for the rest of the file; without a hash only of the same version."""
    if not transfer.size:
        return {}
    source, mark = _noted(transfer)
    if source != transfer.url or not (mark or transfer.known):
        transfer.drop()
        return {}
    return {"Range": f"bytes={transfer.size}-"} | ({"If-Range": mark} if mark else {})


def _noted(transfer: Transfer) -> tuple[str, str]:
    if not transfer.note.is_file():
        return "", ""
    source, _, mark = transfer.note.read_text("utf-8", "replace").partition("\n")
    return source, mark


def _mark(response: requests.Response) -> str:
    """Take what tells versions apart to the byte; a tag that begins with W/ does not."""
    tag = response.headers.get("ETag", "")
    mark = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
    return " ".join(mark.split())


def _check_origin(transfer: Transfer, urls: Iterable[str]) -> None:
    """Refuse what nothing could tell from another file on an open way, this machine aside."""
    for url in [] if transfer.known else urls:
        scheme, host = urlsplit(url).scheme, urlsplit(url).hostname
        if scheme != "https" and host not in ("127.0.0.1", "localhost"):
            raise FileError(
                f"{url}: no hash of this file is published or recorded, so it is only taken from "
                "an address that begins with https://"
            )


def _accept(response: requests.Response, transfer: Transfer) -> int | None:
    """Return the size of the whole file, None if unknown; refuse an answer that is useless."""
    status, url, file = response.status_code, transfer.url, transfer.file
    answer = f"the server answers {status} {response.reason}"
    if status in (408, 425, 429) or status >= 500:
        raise _BrokenOffError(answer, _pause(response))
    if status == 416 or (status == 206 and not _continues(response, transfer)):
        transfer.drop()
        raise _BrokenOffError("the server does not send the rest that was asked for")
    if status not in (200, 206):
        raise FileError(f"{url}: {answer}")
    total = _total(response)
    is_page = "text/html" in response.headers.get("Content-Type", "")
    if is_page and (transfer.known is None or total != file.bytes):
        raise FileError(f"{url} is a web page instead of the file")
    if file.bytes is not None and total not in (None, file.bytes):
        raise FileError(f"{url} has {total:,} bytes instead of {file.bytes:,}")
    if file.bytes is None:
        _expect(response, transfer, total)
    if status == 200:
        transfer.drop()
        transfer.note.write_text(f"{url}\n{_mark(response)}", encoding="utf-8")
    return file.bytes if total is None else total


def _pause(response: requests.Response) -> float | None:
    try:
        return urllib3.Retry().parse_retry_after(response.headers["Retry-After"])
    except (KeyError, ValueError, OverflowError, urllib3.exceptions.HTTPError):
        return None


def _continues(response: requests.Response, transfer: Transfer) -> bool:
    start = re.match("bytes ([0-9]{1,18})-", response.headers.get("Content-Range", ""))
    if not transfer.size or not start or int(start[1]) != transfer.size:
        return False
    marks = {_noted(transfer)[1], _mark(response)} - {""}
    return len(marks) < 2


def _total(response: requests.Response) -> int | None:
    if response.status_code == 206:
        text = response.headers["Content-Range"].rpartition("/")[2]
    else:
        text = response.headers.get("Content-Length", "")
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _expect(response: requests.Response, transfer: Transfer, total: int | None) -> None:
    """Check the size of a file that the registry does not know: the server says it, or its end."""
    if total is None:
        if response.headers.get("Transfer-Encoding", "") != "chunked":
            raise FileError(f"{transfer.url}: the server does not say how long the file is")
        return
    if total == 0:
        raise FileError(f"{transfer.url} is empty")
    needed = total * (1 + UNPACKED * transfer.file.is_archive)
    require_space(transfer.part.parent, needed - transfer.size)
    bar = transfer.batch.bar
    with bar.get_lock():
        bar.total = max(bar.total or 0, bar.n - transfer.size + total)


def _receive(response: requests.Response, transfer: Transfer, total: int | None) -> None:
    size = transfer.size
    most = shutil.disk_usage(transfer.part.parent).free // 2 if total is None else total
    with transfer.part.open("ab") as part:
        # Not read(): it would return only when a whole chunk is there, however slowly it comes.
        while chunk := response.raw.read1(CHUNK, decode_content=False):
            if transfer.batch.stop.is_set():
                raise StoppedError
            size += len(chunk)
            if size > most:
                break
            part.write(chunk)
            part.flush()  # a killed run loses nothing
            advance(transfer.batch, len(chunk))
    if size > most:
        transfer.drop()
        raise FileError(f"{transfer.url} has more than {most:,} bytes, too many")
    if total is not None and size < total:
        raise _BrokenOffError(f"the connection ends after {size:,} of {total:,} bytes")
