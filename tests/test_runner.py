"""The notebook runner, on throw-away books: what fails, stops or is killed is said and goes on."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml
from filelock import FileLock
from micranet_book import record, runner

from micranet_helpers.lessons import command

pytestmark = pytest.mark.slow

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
PARAMETERS = """\
steps: int = 5  # number of steps
rate: float = 0.1  # step size
sides: list = [8, 16]  # px
"""
ZETA = ["derived = steps * 10", "open('derived.txt', 'w').write(f'{steps} {derived} {rate}');"]
ALPHA = ["print(open('derived.txt').read())", "open('alpha.txt', 'w').close()"]
FAILS = ["x = 1", "def inner():\n    return x / 0", "value = inner()\nprint(value)", "y = 2"]
LEAVES = ["x = 1", "raise SystemExit(0)", "y = 2"]
DIES = ["x = 1", "import os\nos._exit(0)", "y = 2"]
SLOW = ["import os, sys, time\nopen('pid.txt', 'w').write(str(os.getpid()));",
        "print('so far'); sys.stdout.flush(); open('said.txt', 'w').close()\n"
        "time.sleep(600 * (not os.path.exists('go')))"]
CELLS = {"zeta": ZETA, "alpha": ALPHA, "fails": FAILS, "leaves": LEAVES, "dies": DIES, "slow": SLOW}

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
CONFIG = 'only_build_toc_files: true\nexecute: {execute_notebooks: "off"}\n'


def write_chapter(book: Path, name: str, cells: list[str], text: str = "") -> None:
    code = [nbformat.v4.new_code_cell(source) for source in cells]
    if name == "zeta":
        code.insert(0, nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}))
    title = nbformat.v4.new_markdown_cell(f"# The {name}{text}")
    for number, cell in enumerate([title, *code]):
        cell["id"] = str(number)
    notebook = nbformat.v4.new_notebook(cells=[title, *code], metadata=KERNEL)
    nbformat.write(notebook, book / f"{name}.ipynb")


def make_book(root: Path, toc: str = TOC) -> Path:
    """A clone with the chapters zeta, alpha, fails, leaves, dies, slow; returns its root."""
    book = root / "book"
    (book / "profiles").mkdir(parents=True)
    (book / "_toc.yml").write_text(toc)
    for name, cells in CELLS.items():
        write_chapter(book, name, cells)
    for name, limit, text in [
        ("quick", 2, "{zeta: {steps: 2, rate: 0.5}}"),
        ("short", 0.05, "{}"),
        ("odd_chapter", 2, "{omega: {steps: 2}}"),
        ("odd", 2, "{}"),
    ]:
        profile = f"minutes_per_cell: {limit}\nparameters: {text}\n"
        (book / "profiles" / f"{name}.yaml").write_text(profile)
    (book / "needs.yaml").write_text("alpha: [zeta]")
    (root / "micranet_helpers").mkdir()
    (root / "micranet_helpers" / "code.py").write_text("x = 1")
    (root / "requirements.lock").write_text("torch==1")
    return root


def call(root: Path, *argv: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``micranet-book argv`` in the folder `root`."""
    out, err = io.StringIO(), io.StringIO()
    streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with contextlib.chdir(root), streams[0], streams[1]:
        code = command.main(list(argv))
    return code, out.getvalue(), err.getvalue()


def work(root: Path, name: str, profile: str = "quick") -> Path:
    return record.work_folder(root / "_build" / "executed" / profile, name)


def executed(out: str) -> list[str]:
    return [line.split()[1] for line in out.splitlines() if line.endswith("...")]


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
    """Tree, exit code and stdout of a run of two chapters over the remains of an older book."""
    tree = book / "_build" / "executed" / "quick"
    tree.mkdir(parents=True)
    (tree / "stale.txt").touch()
    (book / "book" / "runs").mkdir()
    code, out, _ = call(book, "run", "-p", "zeta:steps=3", "alpha", "zeta")
    return tree, code, out


def test_chapters_run_in_book_order_and_override_reaches_what_is_derived(good_run) -> None:
    tree, code, out = good_run
    assert code == 0 and executed(out) == ["zeta", "alpha"]
    assert "2 of 2 chapters in" in out.splitlines()[-1]
    assert json.loads((tree / "status.json").read_text())["machine"]["cpus"] == os.cpu_count()
    cells = nbformat.read(tree / "alpha.ipynb", as_version=4).cells
    assert cells[1].outputs[0].text.strip() == "3 30 0.5"


def test_tree_is_clean_and_sources_stay_as_they_are(good_run, book: Path) -> None:
    assert (good_run[0] / "_toc.yml").exists()
    assert not (good_run[0] / "stale.txt").exists() and not (good_run[0] / "runs").exists()
    cells = nbformat.read(book / "book" / "zeta.ipynb", as_version=4).cells
    assert all(not cell.outputs for cell in cells if cell.cell_type == "code")


BUILD = """
import sys; from pathlib import Path; from micranet_book import runner
begun, _ = runner.PAGES.rsplit("\\n", 1)
runner.PAGES = begun + "\\nimport os, time; print(os.getpid(), flush=True); time.sleep(99)"
runner.build_html(*map(Path, sys.argv[1:]))"""


def test_pages_are_not_made_any_longer_for_a_runner_that_was_killed(tmp_path: Path) -> None:
    (tree := tmp_path / "tree").mkdir()
    command = [sys.executable, "-c", BUILD, str(tree), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        pages = psutil.Process(int(process.stdout.readline()))
        process.kill()
        assert not psutil.wait_procs([pages], timeout=20)[1], "left running"


def test_chapters_that_others_need_come_before_them() -> None:
    book = Path(__file__).parents[1] / "book"
    order = list(runner.chapters(book))
    for name, needed in yaml.safe_load((book / "needs.yaml").read_text()).items():
        assert all(order.index(other) < order.index(name) for other in needed), name


# --- going on ----------------------------------------------------------------------------------


def append(file: str) -> Callable[[Path], None]:
    return lambda root: (root / file).write_text((root / file).read_text() + "#")


NEEDS = {"alpha": ["zeta"]}


def rewrite(name: str, *cells: str, text: str = "") -> Callable[[Path], None]:
    return lambda root: write_chapter(root / "book", name, [*CELLS[name], *cells], text)


@pytest.mark.parametrize(
    ("change", "values", "changed"),
    [
        (append("book/_toc.yml"), {}, ""),
        (rewrite("zeta", text="!"), {}, "zeta"),
        (rewrite("zeta", "1"), {}, "zeta alpha"),
        (rewrite("alpha", "1"), {}, "alpha"),
        (lambda root: None, {"zeta": {"n": 1}}, "zeta alpha"),
        (append("micranet_helpers/code.py"), {}, "zeta alpha dies"),
        (append("requirements.lock"), {}, "zeta alpha dies"),
    ],
    ids=["page", "text", "code", "code of one that none needs", "parameter", "package", "lock"],
)
def test_what_a_change_makes_out_of_date(
    untouched: Path, change: Callable, values: dict, changed: str
) -> None:
    names, tree = ["zeta", "alpha", "dies"], untouched / "tree"
    notebooks = {name: untouched / "book" / f"{name}.ipynb" for name in names}

    def digests(values: dict) -> dict[str, str]:
        sources = record.open_tree(untouched, tree, fresh=False)
        return record.digests(sources, tree, notebooks, values, names, NEEDS)

    before = digests({})
    assert digests({}) == before
    change(untouched)
    after = digests(values)
    assert [name for name in names if after[name] != before[name]] == changed.split()


@pytest.mark.parametrize(
    ("change", "more", "expected"),
    [
        (append("_build/executed/quick/alpha.ipynb"), [], []),  # the reader has changed it
        (lambda root: write_chapter(root / "book", "alpha", ALPHA[:1]), [], ["alpha"]),
        (append("requirements.lock"), [], ["zeta", "alpha"]),
        (lambda root: None, ["--fresh"], ["zeta", "alpha"]),
    ],
    ids=["nothing", "one", "all", "fresh"],
)
def test_only_what_is_out_of_date_is_executed_again(
    good_run, book: Path, tmp_path: Path, change: Callable, more: list, expected: list[str]
) -> None:
    root = Path(shutil.copytree(book, tmp_path / "clone"))
    tree = root / "_build" / "executed" / "quick"
    change(root)
    code, out, _ = call(root, "run", "-p", "zeta:steps=3", "alpha", "zeta", *more)
    assert code == 0 and executed(out) == expected
    assert list(json.loads((tree / "status.json").read_text())["seconds"]) == ["zeta", "alpha"]
    cells = nbformat.read(tree / "alpha.ipynb", as_version=4).cells
    assert all(cell.execution_count for cell in cells[1:])
    written = work(root, "alpha") / "alpha.txt"
    assert written.exists() == (len(cells) > 2), "what nothing writes any more is gone"


@pytest.mark.faults
def test_what_a_killed_run_left_goes_if_its_chapter_has_changed(untouched: Path) -> None:
    notebooks, tree = {"alpha": untouched / "book" / "alpha.ipynb"}, untouched / "tree"
    for cells, kept in [(ALPHA, False), (ALPHA, True), (["x = 1"], False)]:
        write_chapter(untouched / "book", "alpha", cells)
        sources = record.open_tree(untouched, tree, fresh=False)
        found = record.digests(sources, tree, notebooks, {}, ["alpha"], NEEDS)
        record.prepare(untouched, tree, notebooks, found, ["alpha"])
        half = record.work_folder(tree, "alpha") / "half"
        record.begin(tree, "alpha", found["alpha"], [])
        assert half.exists() == kept and (tree / "_toc.yml").exists()
        half.touch()
    before = record.work_folder(tree, "alpha.before") / "half"
    assert before.exists(), "until the chapter has come to its end"
    record.end(tree, "alpha", found["alpha"], notebooks["alpha"], 1.0)
    assert not before.exists()


def test_running_a_chapter_leaves_the_others_as_they_are(good_run, book, tmp_path: Path) -> None:
    root = Path(shutil.copytree(book, tmp_path / "clone {steps}"))
    rewrite("alpha", "1")(root)
    code, out, _ = call(root, "run", "zeta")
    assert code == 0 and executed(out) == ["zeta"]
    cells = nbformat.read(root / "_build/executed/quick/alpha.ipynb", as_version=4).cells
    assert cells[1].outputs and (work(root, "alpha") / "alpha.txt").exists()


# --- usage -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--profile", "fast"], "unknown profile 'fast'"),
        (["--profile", "odd_chapter"], "unknown chapter 'omega'"),
        (["omega"], "unknown chapter 'omega'; choose from: zeta, alpha"),
        (["-p", "zeta:step=1"], "has no parameter 'step'"),
        (["-p", "steps=1"], "chapter:name=value"),
        (["-p", "zeta:steps=1.5"], "zeta:steps must be int, not 1.5"),
        (["-p", "zeta:rate=1e-3"], "YAML wants 1.0e-3"),
        (["-p", "zeta:sides=8"], "zeta:sides must be list of int, not 8"),
        (["-p", "zeta:sides=[8, 1.5]"], "zeta:sides must be list of int, not [8, 1.5]"),
        (["-p", "zeta:sides=[8"], "cannot read -p zeta:sides=[8 as YAML"),
        (["-p", "zeta:steps=~"], f"zeta:steps must be int, not {str(Path.home())!r}"),
    ],
)
def test_bad_usage_runs_nothing(untouched: Path, argv: list[str], message: str) -> None:
    code, out, err = call(untouched, "run", *argv)
    assert code == 2
    assert message in err and len(err.splitlines()) == 1
    assert not out and not (untouched / "_build").exists()


def test_a_network_that_does_not_exist_is_not_trained(untouched: Path) -> None:
    code, out, err = call(untouched, "networks", "cells", "omega")
    assert code == 2 and not out and "no network is called omega: choose among digits" in err


@pytest.mark.faults
@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("_toc.yml", "["), ("_toc.yml", "{chapters: [{file: 3}]}"), ("_toc.yml", "\xe9: {"),
        ("profiles/quick.yaml", "a: ["), ("profiles/quick.yaml", ""),
        ("profiles/quick.yaml", "{minutes_per_cell: soon, parameters: {}}"),
        ("profiles/quick.yaml", "{minutes_per_cell: -1, parameters: {}}"),
        ("profiles/quick.yaml", "{minutes_per_cell: .nan, parameters: {}}"),
        ("profiles/quick.yaml", "{minutes_per_cell: 1, parameters: {zeta: 2}}"),
        ("needs.yaml", "3"), ("zeta.ipynb", "{"),
        ("zeta.ipynb", "[]"), ("zeta.ipynb", "<<<<<<< HEAD"),
    ],
)  # fmt: skip
def test_a_broken_file_of_the_book_is_named(untouched: Path, file: str, text: str) -> None:
    (untouched / "book" / file).write_bytes(text.encode("latin-1"))
    code, out, err = call(untouched, "run")
    assert code == 2 and not out and not (untouched / "_build").exists()
    assert f"{Path('book', file)} cannot be read: put it right" in err and err.count("\n") == 1


@pytest.mark.faults
def test_a_clone_that_cannot_be_written_to(untouched: Path) -> None:
    (untouched / "_build").touch()
    code, out, err = call(untouched, "run")
    assert code == 1 and not out and "micranet-book: " in err and "_build" in err


@pytest.mark.faults
def test_two_runs_do_not_share_a_tree(good_run, book: Path) -> None:
    tree = good_run[0]
    with FileLock(tree.parent / f".{tree.name}.lock"):
        code, out, err = call(book, "run", "zeta")
    assert code == 2 and not out and "Another program is writing to" in err


def test_outside_a_clone(tmp_path: Path) -> None:
    code, _, err = call(tmp_path, "list")
    assert code == 2 and "book/_toc.yml" in err


def test_list(book: Path) -> None:
    code, out, _ = call(book, "list")
    assert code == 0
    assert out.splitlines() == [
        "chapter  parameter  type   default  quick  meaning",
        "zeta     steps      int    5        2      number of steps",
        "zeta     rate       float  0.1      0.5    step size",
        "zeta     sides      list   [8, 16]         px",
    ]


# --- what fails --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faulty_run(book: Path) -> tuple[Path, int, str]:
    """Tree, exit code and stderr of a run of three chapters that fail."""
    code, _, err = call(book, "run", "--profile", "odd", "fails", "leaves", "dies")
    return book / "_build" / "executed" / "odd", code, err


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fails", ["failed", "code cell 3: value = inner()", "ZeroDivisionError: division by z"]),
        ("leaves", ["ended early", "code cell 2: raise SystemExit(0)"]),
        ("dies", ["failed", "code cell 2: import os", "Kernel died"]),
    ],
)
def test_chapter_that_fails_says_so_on_its_page_and_stops_no_other(
    faulty_run, name: str, said: list[str]
) -> None:
    tree, code, err = faulty_run
    assert code == 1
    assert err.splitlines()[-1].startswith("micranet-book: 3 of 3 chapters failed: fails, leaves, ")
    [message] = [text for text in err.split("\nmicranet-book: ") if f"'{name}'" in text]
    assert "\x1b" not in message and len(message.splitlines()) <= 19
    assert str(tree / f"{name}.ipynb") in message
    cells = nbformat.read(tree / f"{name}.ipynb", as_version=4).cells
    assert cells[0].source.startswith(f"# The {name}\n")
    assert "This chapter did not finish" in cells[0].source
    for text in said:
        assert text in message and text in cells[0].source
    assert cells[-1].execution_count is None, "nothing runs after a failure"


def test_pages_are_built_whatever_happens_and_the_failed_chapter_alone_is_repeated(
    tmp_path: Path
) -> None:
    toc = "{format: jb-book, root: intro, chapters: [file: zeta, file: fails]}"
    root = make_book(tmp_path, toc)
    (root / "book" / "_config.yml").write_text(CONFIG)
    (root / "book" / "intro.md").write_text("# Title\n\n{doc}`nowhere`\n")
    html = root / "book" / "_build" / "html"
    html.mkdir(parents=True)
    (html / "old.html").touch()
    code, out, err = call(root, "build")
    assert code == 1 and executed(out) == ["zeta", "fails"]
    assert "1 of 2 chapters failed: fails" in err and "with warnings" in err
    assert (html / "index.html").is_file() and not (html / "old.html").exists()
    assert str(html / "index.html") == out.splitlines()[-1]
    assert "This chapter did not finish" in (html / "fails.html").read_text()

    write_chapter(root / "book", "fails", ["x = 1"])
    code, out, err = call(root, "run")
    assert (code, executed(out), err) == (0, ["fails"], "")
    assert "did not finish" not in (root / "_build/executed/quick/fails.ipynb").read_text()


def so_far(notebook: Path) -> bool:
    """Whether the output of the stopped cell is there."""
    return nbformat.read(notebook, as_version=4).cells[2].outputs[0].text == "so far\n"


@pytest.mark.faults
def test_a_cell_over_the_limit_ends_its_chapter_and_leaves_no_kernel(book: Path) -> None:
    code, _, err = call(book, "run", "--profile", "short", "slow")
    assert code == 1
    assert "made no progress for 0.05 minutes" in err and "code cell 2: print('so far')" in err
    assert so_far(book / "_build/executed/short/slow.ipynb")
    pid = int((work(book, "slow", "short") / "pid.txt").read_text())
    assert not is_running(pid)


@pytest.mark.faults
@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups")
@pytest.mark.parametrize("stop", ["SIGINT", "SIGTERM"])
def test_stopped_run_leaves_no_kernel_and_goes_on_when_it_is_called_again(
    untouched: Path, stop: str
) -> None:
    book = untouched
    command = "import sys; from micranet_helpers.lessons.command import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "run", "--profile", "odd", "zeta", "slow"],
        cwd=book, stderr=subprocess.PIPE, start_new_session=True,
    )
    pid_file = work(book, "slow", "odd") / "pid.txt"
    tree = book / "_build" / "executed" / "odd"
    said = pid_file.with_name("said.txt")  # else the kernel may not have sent its words yet
    while not (said.exists() and record.times(tree, ["zeta"])["zeta"]):
        assert process.poll() is None, "ended before the cell that sleeps"
        time.sleep(0.1)
    os.killpg(process.pid, signal.Signals[stop])  # Ctrl-C in a terminal, or the system
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.Signals[stop]
    assert not is_running(int(pid_file.read_text()))
    assert so_far(tree / "slow.ipynb")

    (pid_file.parent / "go").touch()
    code, out, _ = call(book, "run", "--profile", "odd", "zeta", "slow")
    assert code == 0 and executed(out) == ["slow"]
