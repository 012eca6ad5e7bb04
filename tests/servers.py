"""Loopback servers: one of a folder's files, one that fails in many ways, and JupyterLab."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

PAGE = b"<!DOCTYPE html><html><body>Please sign in to the network.</body></html>"


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # with the usual 5, parallel connections wait for 1 s
    daemon_threads = True

    def handle_error(self, *args: object) -> None:
        pass  # the client has left


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler] | partial) -> Iterator[str]:
    """Address of a server that lives as long as the block."""
    with _Server(("127.0.0.1", 0), handler) as server:
        server.block_on_close = False
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve_folder(folder: Path, headers: Mapping[str, str] | None = None) -> Iterator[str]:
    """Address under which the files of a folder can be fetched, with more headers."""

    class Files(_QuietFiles):
        def end_headers(self) -> None:
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            super().end_headers()

    with serving(partial(Files, directory=str(folder))) as url:
        yield url


LAB = [
    sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
    "--IdentityProvider.token=", "--ServerApp.port_retries=0", "--ServerApp.quit_button=False",
    "--LabApp.extension_manager=readonly", "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
]  # fmt: skip
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}


@contextmanager
def serve_lab(folder: Path, home: Path, theme: str = "JupyterLab Light") -> Iterator[str]:
    """Address of a JupyterLab in a folder, as on a new machine: its home is empty."""
    settings = SETTINGS | {"@jupyterlab/apputils-extension:themes": {"theme": theme}}
    path = home / "config" / "labconfig" / "default_setting_overrides.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(settings))
    names = {"HOME": "", "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data",
             "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"}  # fmt: skip
    places = {name: str(home / part) for name, part in names.items()}
    places["MICRANET_WORKDIR"] = ""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*LAB, f"--port={port}", f"--ServerApp.root_dir={folder}"]
    with (home / "log").open("wb") as log:
        lab = subprocess.Popen(command, env=os.environ | places, stdout=log, stderr=log)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api", lab, home / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        lab.terminate()  # its kernels end with it
        lab.wait(30)


def _wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(600):
        with suppress(OSError):
            urllib.request.urlopen(url).close()
            return
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start: {log.read_text()}")


@dataclass
class Faults:
    """What a faulty server holds, does wrong, and has been asked."""

    files: dict[str, bytes]  # content by path, without the leading slash
    faults: list[str] = field(default_factory=list)  # one for each request: "cut 100", "404"
    always: str = ""  # what goes wrong with all further requests
    tag: str = '"1"'  # ETag of all files
    requests: list[tuple[str, str]] = field(default_factory=list)  # paths and Range headers
    sent: int = 0  # bytes of content


@contextmanager
def serve_faults(state: Faults) -> Iterator[str]:
    """Address of a server that does wrong what ``state`` says."""
    with serving(partial(_Faulty, state)) as url:
        yield url


class _Faulty(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, state: Faults, *args: object) -> None:
        self.state = state
        super().__init__(*args)

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        state, wanted = self.state, self.headers.get("Range", "")
        state.requests.append((path := unquote(self.path[1:]), wanted))
        fault, _, number = (state.faults.pop(0) if state.faults else state.always).partition(" ")
        content = state.files.get(path)
        if fault == "drop":
            self.close_connection = True
        elif fault.isdigit() or content is None:
            self._answer(int(fault or 404), b"no", {"Retry-After": number} if number else {})
        elif fault == "html":
            self._answer(200, PAGE, {"Content-Type": "text/html; charset=utf-8"})
        elif fault == "endless":
            self._chunks(bytes(2**16) for _ in range(10_000))
        elif fault == "chunks":
            self._chunks([content], end=True)
        elif fault == "cut-chunks":
            self._chunks([content[: int(number)]])
        elif fault == "wait":
            time.sleep(1)
            self._send(content, "", "", 0)
        elif fault == "redirect":
            self._answer(302, b"", {"Location": number})
        else:
            self._send(content, wanted, fault, int(number or 0))

    def _send(self, content: bytes, wanted: str, fault: str, number: int) -> None:
        content = {
            "wrong": bytes(byte ^ 1 for byte in content),
            "longer": content + b"x",
            "shorter": content[:-1],
            "empty": b"",
        }.get(fault, content)
        headers = {"ETag": self.state.tag} if self.state.tag else {}
        fresh = self.headers.get("If-Range", self.state.tag) == self.state.tag
        match = re.fullmatch(r"bytes=(\d+)-", wanted)
        start, status = 0, 200
        if match and fault != "ignore-range" and (fresh or fault == "stale"):
            start, status = int(match[1]), 206
            shown = start + 7 * (fault == "bad-range")
            headers["Content-Range"] = f"bytes {shown}-{len(content) - 1}/{len(content)}"
            if start >= len(content):
                return self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        if fault == "no-length":
            headers["Content-Length"] = ""
        self._answer(status, content[start:], headers, fault, number)

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str], fault: str = "", number: int = 0
    ) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            if value:
                self.send_header(key, value)
        self.end_headers()
        end = number if fault in ("cut", "stall", "no-length") else len(body)
        step = number if fault == "slow" else 2**16
        for at in range(0, min(end, len(body)), step):
            chunk = body[at : min(at + step, end)]
            self.wfile.write(chunk)
            self.state.sent += len(chunk)
            time.sleep(0.01 * (fault == "slow"))
        if fault == "stall":
            time.sleep(20)
        if fault in ("cut", "stall", "no-length"):
            self.close_connection = True

    def _chunks(self, chunks: Iterable[bytes], end: bool = False) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("ETag", self.state.tag)
        self.end_headers()
        with suppress(OSError):
            for chunk in chunks:
                self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                self.state.sent += len(chunk)
            if end:
                self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True
