"""Colab, played here: a chapter alone in an empty folder, with Jupyter, torch and nothing else.

Its set-up cell installs the helper as it does on Colab, by pip from git. The address leads to a
repository made here, and the package index is a folder with wheels made of what is installed.
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import tomllib
import venv
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from browsers import need
from micranet_book import runner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from requirements import walk
from servers import serve_folder

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ADDRESS = PROJECT["project"]["urls"]["Repository"]
PACKED = ("pyproject.toml", "README.md", "LICENSE", "micranet_helpers", "book/results/full")
PRESENT = ("pip", "torch", "torchvision", "ipykernel", "ipywidgets")  # of what Colab has, the least
# All that a reader sees of the installation is this line of IPython.
NOTE = "Note: you may need to restart the kernel to use updated packages.\n"
PROBE = "import micranet_helpers\nprint(micranet_helpers.__file__)"


def reached(names: Iterable[str]) -> dict[str, Distribution]:
    """The installed distributions that these need, directly or not, and themselves."""
    needed = {canonicalize_name(item.name) for item in walk(map(Requirement, names))}
    return {name: importlib.metadata.distribution(name) for name in sorted(needed)}


def files_of(package: Distribution) -> Iterator[tuple[str, Path]]:
    """Names within site-packages, and places, of a distribution's files; scripts are left out."""
    for file in package.files or ():
        place = Path(package.locate_file(file))
        if ".." not in file.parts and file.suffix != ".pyc" and place.is_file():
            yield file.as_posix(), place


def link(package: Distribution, site: Path) -> None:
    """Show a distribution in another environment: file by file, so that pip can remove the links"""
    for name, place in files_of(package):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).symlink_to(place)


def pack(package: Distribution, index: Path) -> None:
    """Make the wheel from which a distribution was installed, once more."""
    name = canonicalize_name(package.name)
    tags = [line.split(": ")[1].split("-") for line in package.read_text("WHEEL").splitlines()
            if line.startswith("Tag: ")]
    tag = "-".join(".".join(dict.fromkeys(parts)) for parts in zip(*tags, strict=True))
    (index / name).mkdir()
    stem = f"{name.replace('-', '_')}-{package.version}-{tag}"
    with zipfile.ZipFile(index / name / f"{stem}.whl", "w") as wheel:
        for inside, place in files_of(package):
            if not inside.endswith((".dist-info/direct_url.json", ".dist-info/REQUESTED")):
                wheel.write(place, inside)


def commit_project(repository: Path) -> None:
    """A repository with what the package is built of, as it stands here."""
    for name in PACKED:
        source, target = ROOT / name, repository / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    me = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    for call in (("init", "-q"), ("add", "."), (*me, "commit", "-qm", "as it stands"),
                 ("config", "uploadpack.allowFilter", "true")):
        subprocess.run(["git", *call], cwd=repository, check=True)


@pytest.fixture(scope="module")
def colab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """An environment, and the variables with which a kernel ``colab`` starts in it."""
    need("git")
    folder = tmp_path_factory.mktemp("colab")
    environment, index, kernel = (folder / name for name in ("env", "index", "kernels/colab"))
    venv.create(environment, symlinks=True)
    [site] = environment.glob("lib/python*/site-packages")
    present = reached(PRESENT)
    for package in present.values():
        link(package, site)
    index.mkdir()
    # papermill is no part of Colab, nor of the helper: the chapter on sweeps installs it.
    needed = reached([*PROJECT["project"]["dependencies"], "papermill"])
    missing = {name: package for name, package in needed.items() if name not in present}
    # pip builds a project in an environment of its own, where nothing is present.
    for package in (missing | reached(PROJECT["build-system"]["requires"])).values():
        pack(package, index)
    commit_project(folder / "repository")
    (folder / "gitconfig").write_text(
        f'[url "{(folder / "repository").as_uri()}"]\n    insteadOf = {ADDRESS}\n')
    kernel.mkdir(parents=True)
    command = [str(environment / "bin" / "python"), "-m", "ipykernel_launcher", "-f"]
    (kernel / "kernel.json").write_text(json.dumps(
        {"argv": [*command, "{connection_file}"], "display_name": "Colab", "language": "python"}))
    with serve_folder(index) as url:
        yield environment, {
            "JUPYTER_PATH": str(folder), "GIT_CONFIG_GLOBAL": str(folder / "gitconfig"),
            "PIP_INDEX_URL": url, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1",
            "PIP_NO_COMPILE": "1", "MICRANET_DATA": str(folder / "data"),
        }  # fmt: skip


@pytest.fixture
def fresh(colab: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment, without the helper."""
    environment, variables = colab
    for name in [name for name in os.environ if name.startswith(("PIP_", "PYTHONPATH"))]:
        monkeypatch.delenv(name)
    for name, value in (runner.kernel_environment() | variables).items():
        monkeypatch.setenv(name, value)
    command = [environment / "bin" / "python", "-m", "pip", "uninstall", "-qqy", "micranet-helpers"]
    subprocess.run(command, check=True)
    return environment


def execute(chapter: Path, folder: Path, values: dict[str, Any]) -> list[Any]:
    """Code cells of a chapter that was run alone in an empty folder, and of the probe behind it."""
    notebook = nbformat.read(chapter, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(PROBE))
    nbformat.write(notebook, folder / chapter.name)
    done = papermill.execute_notebook(
        folder / chapter.name, folder / chapter.name, values, kernel_name="colab",
        cwd=folder, progress_bar=False)
    return [cell for cell in done.cells if cell.cell_type == "code"]


def printed(cell: Any, *names: str) -> str:
    return "".join(output.text for output in cell.outputs if output.get("name") in names)


@pytest.mark.parametrize("chapter", runner.chapters(BOOK))
def test_chapter_alone_installs_the_helper_and_runs(
    fresh: Path, tmp_path: Path, chapter: str
) -> None:
    _, values = runner.load_profile(BOOK, "smoke")
    cells = execute(runner.chapters(BOOK)[chapter], tmp_path, values.get(chapter, {}))
    assert Path(printed(cells[-1], "stdout").strip()).is_relative_to(fresh)
    assert printed(cells[0], "stdout", "stderr") == NOTE
    for cell in cells:
        assert "warning" not in printed(cell, "stderr").lower(), cell.source
