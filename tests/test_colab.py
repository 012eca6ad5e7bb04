"""The package outside a clone: on Colab, played here, and with its declared dependencies only.

The set-up cell installs the helper as it does on Colab, by pip from git, beside Jupyter, torch and
nothing else. The address leads to a repository made here, and the package index is a folder with
wheels made of what is installed.
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
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
from micranet_book import chapter, runner
from notebooks import code_cells
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
METADATA = {"language_info": {"name": "python"}}
PROBE = "import micranet_helpers\nprint(micranet_helpers.__file__)"
# What modules need beyond the dependencies: in a clone, the extra "book" installs it.
EXTRAS = {
    "micranet_helpers.explore.widgets": "ipywidgets",
    "micranet_helpers.label.widget": "anywidget",
    "micranet_helpers.metrics.cost": "psutil",
}
IMPORTS = """
import importlib, json, pkgutil
import micranet_helpers

missing = {}
for module in pkgutil.walk_packages(micranet_helpers.__path__, "micranet_helpers."):
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        missing[module.name] = (error.__cause__ or error).name
print(json.dumps(missing))
"""
pytestmark = pytest.mark.slow


def reached(names: Iterable[str]) -> dict[str, Distribution]:
    """The installed distributions that these need, directly or not, and themselves."""
    needed = {canonicalize_name(item.name) for item in walk(map(Requirement, names))}
    return {name: importlib.metadata.distribution(name) for name in sorted(needed)}


def files_of(package: Distribution) -> Iterator[tuple[str, Path]]:
    """Names within site-packages, and places, of a distribution's files; scripts are left out."""
    for file in package.files or ():
        place = Path(package.locate_file(file))
        if ".." not in file.parts and place.is_file():
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
            if not inside.endswith((".pyc", "/direct_url.json", "/REQUESTED")):
                wheel.write(place, inside)


def commit_project(repository: Path) -> None:
    """A repository with what the package is built of, as it stands here."""
    for name in PACKED:
        source, target = ROOT / name, repository / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    me = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    release = f"v{PROJECT['project']['version']}"
    for call in (("init", "-q"), ("add", "."), (*me, "commit", "-qm", "as it stands"),
                 ("tag", release), ("config", "uploadpack.allowFilter", "true")):
        subprocess.run(["git", *call], cwd=repository, check=True)


def make_environment(folder: Path, packages: Iterable[Distribution]) -> Path:
    """A virtual environment in which these packages are installed."""
    venv.create(folder, symlinks=True)
    [site] = folder.glob("lib/python*/site-packages")
    for package in packages:
        link(package, site)
    return folder


def outside() -> dict[str, str]:
    """The variables of a machine that knows nothing of this clone."""
    known = chapter.kernel_environment()
    return {name: value for name, value in known.items()
            if not name.startswith(("PIP_", "PYTHONPATH"))}  # fmt: skip


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("git")
    folder = tmp_path_factory.mktemp("repository")
    commit_project(folder)
    return folder


# --- Colab -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def colab(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an environment, ``env``, whose Python runs the kernel ``colab``."""
    folder = tmp_path_factory.mktemp("colab")
    index, kernel = folder / "index", folder / "kernels" / "colab"
    present = reached(PRESENT)
    environment = make_environment(folder / "env", present.values())
    index.mkdir()
    # No part of Colab, nor of the helper: the chapters on sweeps and on labels install them.
    needed = reached([*PROJECT["project"]["dependencies"], "papermill", "anywidget"])
    missing = {name: package for name, package in needed.items() if name not in present}
    # pip builds a project in an environment of its own, where nothing is present.
    for package in (missing | reached(PROJECT["build-system"]["requires"])).values():
        pack(package, index)
    (folder / "gitconfig").write_text(f'[url "{repository.as_uri()}"]\n    insteadOf = {ADDRESS}\n')
    kernel.mkdir(parents=True)
    command = [str(environment / "bin" / "python"), "-m", "ipykernel_launcher", "-f"]
    (kernel / "kernel.json").write_text(json.dumps(
        {"argv": [*command, "{connection_file}"], "display_name": "Colab", "language": "python"}))
    with serve_folder(index) as url, pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - outside().keys():
            patch.delenv(name)
        for name, value in (outside() | {
            "JUPYTER_PATH": str(folder), "GIT_CONFIG_GLOBAL": str(folder / "gitconfig"),
            "PIP_INDEX_URL": url, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1",
            "PIP_NO_COMPILE": "1", "MICRANET_DATA": str(folder / "data"),
        }).items():  # fmt: skip
            patch.setenv(name, value)
        yield folder


def execute(cells: list[Any], folder: Path, values: dict[str, Any]) -> list[Any]:
    """Code cells that were run in Colab's environment, in an empty folder."""
    folder.mkdir()
    path = folder / "notebook.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=METADATA), path)
    done = papermill.execute_notebook(
        path, path, values, kernel_name="colab", cwd=folder, progress_bar=False)
    return [cell for cell in done.cells if cell.cell_type == "code"]


def printed(cell: Any, *names: str) -> str:
    return "".join(output.text for output in cell.outputs if output.get("name") in names)


def check_silence(cells: list[Any]) -> None:
    for cell in cells:
        assert "warning" not in printed(cell, "stderr").lower(), cell.source


def head(chapter: Path) -> list[Any]:
    """Cells that set a chapter up: to the one with its imports, which follows the parameters."""
    cells = code_cells(chapter)
    [at] = [n for n, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    return cells[: at + 2]


@pytest.fixture(scope="module")
def quickstart(colab: Path) -> list[Any]:
    """Code cells of the first chapter, run alone, and of a probe behind it."""
    _, values = runner.load_profile(BOOK, "smoke")
    cells = [*code_cells(BOOK / "quickstart.ipynb"), nbformat.v4.new_code_cell(PROBE)]
    return execute(cells, colab / "quickstart", values["quickstart"])


def test_chapter_alone_installs_the_helper_and_runs(colab: Path, quickstart: list) -> None:
    assert Path(printed(quickstart[-1], "stdout").strip()).is_relative_to(colab / "env")
    assert printed(quickstart[0], "stdout", "stderr") == NOTE
    pins = [f"{name}=={importlib.metadata.version(name)}" for name in ("numpy", "torch")]
    assert (colab / "quickstart" / "constraints.txt").read_text().split() == pins
    check_silence(quickstart)


def test_every_chapter_finds_what_it_imports(colab: Path, quickstart: list) -> None:
    heads = {name: head(path) for name, path in runner.chapters(BOOK).items()}
    assert len({cells[0].source for cells in heads.values()}) == 1, "set-up cells differ"
    done = execute([cell for cells in heads.values() for cell in cells], colab / "imports", {})
    assert not printed(done[0], "stdout", "stderr"), "installed again"
    check_silence(done)


# --- the declared dependencies only -------------------------------------------------------------


@pytest.fixture(scope="module")
def core(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of an environment with the wheel and the dependencies that it declares."""
    folder = tmp_path_factory.mktemp("core")
    environment = make_environment(folder, reached(PROJECT["project"]["dependencies"]).values())
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", folder / "wheels", repository]
    subprocess.run([*pip, *build], check=True, env=outside())
    [wheel] = (folder / "wheels").iterdir()
    install = ["--python", environment / "bin" / "python", "install", "--no-deps", wheel]
    subprocess.run([*pip, *install], check=True, env=outside())
    return environment / "bin"


def run(command: list[Any], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=outside(), capture_output=True, text=True)


def test_modules_need_the_declared_dependencies_only(core: Path, tmp_path: Path) -> None:
    done = run([core / "python", "-c", IMPORTS], tmp_path)
    assert not done.returncode and json.loads(done.stdout) == EXTRAS, done.stdout + done.stderr


def test_wheel_carries_no_runner(core: Path, tmp_path: Path) -> None:
    code = "from importlib.util import *; print(*map(find_spec, ['sphinx', 'micranet_book']))"
    assert run([core / "python", "-c", code], tmp_path).stdout == "None None\n"
    done = run([core / "micranet-book", "run"], tmp_path)
    assert done.returncode == 2 and "clone the repository" in done.stderr
    assert done.stderr.count("\n") == 1 and not done.stdout
