"""The notebook runner, on throw-away books: each start of a kernel costs 1 to 2 s."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from micranet_book import runner

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
PARAMETERS = """\
steps: int = 5  # number of steps
rate: float = 0.1  # step size
"""
ZETA = ["derived = steps * 10", "open('derived.txt', 'w').write(f'{steps} {derived} {rate}');"]
ALPHA = ["print(open('derived.txt').read())"]
FAILS = ["x = 1", "def inner():\n    return x / 0", "value = inner()\nprint(value)", "y = 2"]
LEAVES = ["x = 1", "raise SystemExit(0)", "y = 2"]
DIES = ["x = 1", "import os\nos._exit(0)", "y = 2"]
SLOW = ["import os, time\nopen('pid.txt', 'w').write(str(os.getpid()));", "time.sleep(600)"]

TOC = """\
format: jb-book
root: intro
parts:
  - caption: One
    chapters:
      - file: zeta
        sections:
          - file: alpha.ipynb
      - file: api/index
  - caption: Two
    chapters: [{file: fails}, {file: leaves}, {file: dies}, {file: slow}]
"""


def write_chapter(path: Path, cells: list[str], parameters: str = "") -> None:
    code = [nbformat.v4.new_code_cell(source) for source in cells]
    if parameters:
        code.insert(0, nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    title = nbformat.v4.new_markdown_cell(f"# {path.stem}")
    nbformat.write(nbformat.v4.new_notebook(cells=[title, *code], metadata=KERNEL), path)


def make_book(root: Path) -> Path:
    """A clone with the chapters zeta, alpha, fails, leaves, dies, slow; returns its root."""
    book = root / "book"
    (book / "profiles").mkdir(parents=True)
    (book / "_toc.yml").write_text(TOC)
    others = {"alpha": ALPHA, "fails": FAILS, "leaves": LEAVES, "dies": DIES, "slow": SLOW}
    for name, cells in others.items():
        write_chapter(book / f"{name}.ipynb", cells)
    write_chapter(book / "zeta.ipynb", ZETA, PARAMETERS)
    for name, limit, text in [
        ("quick", 120, "{zeta: {steps: 2, rate: 0.5}}"),
        ("short", 8, "{}"),
        ("odd_chapter", 8, "{omega: {steps: 2}}"),
        ("odd_name", 8, "{zeta: {step: 2}}"),
    ]:
        profile = f"time_limit: {limit}\nparameters: {text}\n"
        (book / "profiles" / f"{name}.yaml").write_text(profile)
    return root


def call(root: Path, *argv: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``micranet-book argv`` in the folder `root`."""
    out, err = io.StringIO(), io.StringIO()
    streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with contextlib.chdir(root), streams[0], streams[1]:
        code = runner.main(list(argv))
    return code, out.getvalue(), err.getvalue()


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_book(tmp_path_factory.mktemp("clone"))


@pytest.fixture
def untouched(tmp_path: Path) -> Path:
    return make_book(tmp_path)


@pytest.fixture(scope="module")
def good_run(book: Path) -> tuple[Path, int, str]:
    """Tree, exit code and stdout of a run of two chapters over the remains of another run."""
    tree = book / "_build" / "executed" / "quick"
    tree.mkdir(parents=True)
    (tree / "stale.txt").touch()
    (book / "book" / "runs").mkdir()
    code, out, _ = call(book, "run", "-p", "zeta:steps=3", "alpha", "zeta")
    return tree, code, out


def test_chapters_run_in_book_order(good_run: tuple[Path, int, str]) -> None:
    _, code, out = good_run
    assert code == 0
    started = [line for line in out.splitlines() if line.endswith("...")]
    assert started == ["[1/2] zeta ...", "[2/2] alpha ..."]
    assert "2 chapters in" in out.splitlines()[-1]


def test_override_reaches_the_chapter_and_what_it_derives(good_run) -> None:
    assert (good_run[0] / "derived.txt").read_text() == "3 30 0.5"


def test_chapters_share_the_tree_and_find_its_files(good_run) -> None:
    cells = nbformat.read(good_run[0] / "alpha.ipynb", as_version=4).cells
    assert cells[1].outputs[0].text.strip() == "3 30 0.5"


def test_tree_is_clean(good_run) -> None:
    assert not (good_run[0] / "stale.txt").exists()
    assert not (good_run[0] / "runs").exists()
    assert (good_run[0] / "_toc.yml").exists()


def test_sources_stay_as_they_are(good_run, book: Path) -> None:
    cells = nbformat.read(book / "book" / "zeta.ipynb", as_version=4).cells
    assert all(not cell.outputs for cell in cells if cell.cell_type == "code")


def test_status_file(good_run) -> None:
    status = json.loads((good_run[0] / "status.json").read_text())
    assert status["profile"] == "quick"
    assert list(status["seconds"]) == ["zeta", "alpha"]
    assert {"python", "micranet-helpers", "torch", "numpy"} <= set(status["versions"])
    assert status["machine"]["cpus"] == os.cpu_count()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--profile", "fast"], "unknown profile 'fast'"),
        (["--profile", "odd_chapter"], "unknown chapter 'omega'"),
        (["--profile", "odd_name"], "has no parameter 'step'; it has: steps, rate"),
        (["omega"], "unknown chapter 'omega'; choose from: zeta, alpha"),
        (["-p", "omega:steps=1"], "unknown chapter 'omega'"),
        (["-p", "zeta:step=1"], "has no parameter 'step'"),
        (["-p", "alpha:steps=1"], "it has: none"),
        (["-p", "zeta:steps=1", "alpha"], "unknown chapter 'zeta'"),
        (["-p", "steps=1"], "chapter:name=value"),
        (["-p", "zeta:steps=1.5"], "zeta:steps must be int, not 1.5"),
        (["-p", "zeta:rate=1e-3"], "YAML wants 1.0e-3"),
    ],
)
def test_bad_usage_runs_nothing(untouched: Path, argv: list[str], message: str) -> None:
    code, out, err = call(untouched, "run", *argv)
    assert code == 2
    assert message in err and len(err.splitlines()) == 1
    assert not out and not (untouched / "_build").exists()


def test_outside_a_clone(tmp_path: Path) -> None:
    code, _, err = call(tmp_path, "list")
    assert code == 2 and "book/_toc.yml" in err


def test_without_the_extra(untouched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.importlib.util, "find_spec", lambda name: None)
    code, _, err = call(untouched, "run")
    assert code == 2 and 'pip install "micranet-helpers[book]"' in err


def test_list(book: Path) -> None:
    code, out, _ = call(book, "list")
    assert code == 0
    assert out.splitlines() == [
        "chapter  parameter  type   default  quick  meaning",
        "zeta     steps      int    5        2      number of steps",
        "zeta     rate       float  0.1      0.5    step size",
    ]


def test_failing_cell(book: Path) -> None:
    code, _, err = call(book, "run", "fails", "leaves")
    assert code == 1
    assert "chapter 'fails' failed at code cell 3: value = inner()" in err
    assert "ZeroDivisionError: division by zero" in err
    assert "\x1b" not in err and len(err.strip().splitlines()) <= 17
    kept = book / "_build" / "executed" / "quick" / "fails.ipynb"
    assert str(kept) in err and "ZeroDivisionError" in kept.read_text()
    status = nbformat.read(kept.with_stem("leaves"), as_version=4).cells[1]
    assert status.execution_count is None  # nothing runs after a failure


def test_early_exit_is_a_failure(book: Path) -> None:
    code, _, err = call(book, "run", "leaves")
    assert code == 1
    assert "chapter 'leaves' ended early" in err and "code cell 2: raise SystemExit(0)" in err


def test_dead_kernel_is_a_failure(book: Path) -> None:
    code, _, err = call(book, "run", "dies")
    assert code == 1
    assert "chapter 'dies' failed at code cell 2: import os" in err and "Kernel died" in err


def test_time_limit_leaves_no_kernel(book: Path) -> None:
    code, _, err = call(book, "run", "--profile", "short", "slow")
    assert code == 1
    assert "took more than 8 s" in err and "code cell 2: time.sleep(600)" in err
    pid = int((book / "_build" / "executed" / "short" / "pid.txt").read_text())
    assert not is_running(pid)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups")
def test_interrupt_leaves_no_kernel(untouched: Path) -> None:
    command = "import sys; from micranet_helpers.lessons.command import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "run", "slow"],
        cwd=untouched, stderr=subprocess.PIPE, start_new_session=True,
    )
    pid_file = untouched / "_build" / "executed" / "quick" / "pid.txt"
    end = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < end:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: papermill gets it too
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and b"stopped" in err
    assert not is_running(int(pid_file.read_text()))


def test_kernel_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "7")
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    environment = runner.kernel_environment()
    assert environment["MALLOC_TRIM_THRESHOLD_"] == "7"
    assert environment["MALLOC_MMAP_THRESHOLD_"] == str(2**30)
    assert "MALLOC_MMAP_THRESHOLD_" not in os.environ


def test_a_warning_fails_the_build_and_no_old_page_stays(tmp_path: Path) -> None:
    tree, old = tmp_path / "tree", tmp_path / "out" / "_build" / "html" / "old.html"
    tree.mkdir()
    old.parent.mkdir(parents=True)
    old.touch()
    (tree / "_toc.yml").write_text("format: jb-book\nroot: intro\n")
    (tree / "_config.yml").write_text("title: T\nonly_build_toc_files: true\n")
    (tree / "intro.md").write_text("# Title\n\n{doc}`nowhere`\n")
    with pytest.raises(runner.ChapterError):
        runner.build_html(tree, tmp_path / "out")
    assert not old.exists()
