"""The sources agree with each other: chapters, badges, profiles, lock file, environment, links."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import nbformat
import pytest
import rattler
import yaml
from micranet_book import runner
from notebooks import code_cells, tagged
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from requirements import walk

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ADDRESS = PROJECT["project"]["urls"]["Repository"]
RELEASE = f"v{PROJECT['project']['version']}"  # whose chapters and package Colab takes
COLAB = ADDRESS.replace("https://github.com/", "https://colab.research.google.com/github/")
NOTEBOOKS = sorted(path for path in BOOK.rglob("*.ipynb") if "_build" not in path.parts)
MODULES = sorted([*(ROOT / "micranet_helpers").rglob("*.py"), *(BOOK / "_ext").rglob("*.py")])
MOST_LINES, WIDEST = 180, 79  # of code in a chapter, with solutions; of what a page shows whole
MOST_OF_SOLUTIONS, MOST_WORDS = 40, 2500  # lines of code in folded cells; words of a chapter
CONDA_NAMES = {"pytorch": "torch"}  # conda's name -> that of the Python package index

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
every_module = pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: str(path.relative_to(ROOT))
)


def functions(source: str) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]


# --- chapters ----------------------------------------------------------------------------------


def test_every_chapter_is_listed_and_every_listed_chapter_is_there() -> None:
    toc = (BOOK / "_toc.yml").read_text(encoding="utf-8")
    listed = re.findall(r"(?:file|root): (\S+)", toc)
    pages = [*NOTEBOOKS, *BOOK.glob("*.md")]
    names = {path.relative_to(BOOK).with_suffix("").as_posix() for path in pages}
    assert {name for name in listed if not name.startswith("api/")} == names


@every_notebook
def test_notebook_is_stripped_and_valid(path: Path) -> None:
    text = json.loads(path.read_text(encoding="utf-8"))
    assert (text["nbformat"], text["nbformat_minor"]) >= (4, 5), "older notebooks have no cell ids"
    nbformat.validate(text)
    assert set(text["metadata"]) <= {"kernelspec", "language_info"}
    assert text["metadata"]["kernelspec"]["name"] == "python3"
    for cell in text["cells"]:
        assert set(cell["metadata"]) <= {"tags"}, f"run nbstripout on {path.name}"
        assert not cell.get("outputs") and cell.get("execution_count") is None
        assert "".join(cell["source"]).strip(), "an empty cell"


@every_notebook
def test_parameters_are_annotated_literals_with_a_comment(path: Path) -> None:
    if not code_cells(path):
        return
    [source] = tagged(path, "parameters")
    shown = runner.inspect_parameters(path)
    statements = ast.parse(source).body
    assert all(isinstance(node, ast.AnnAssign) for node in statements)
    assert [node.target.id for node in statements] == list(shown)
    for node in statements:
        item = shown[node.target.id]
        assert item["inferred_type_name"] == ast.unparse(node.annotation)
        assert item["help"].strip(), f"{item['name']} needs a trailing comment"
        # papermill splits at the first '#', also within a string
        assert ast.literal_eval(item["default"]) == ast.literal_eval(node.value)


@every_notebook
def test_badge_opens_this_chapter(path: Path) -> None:
    links = re.findall(r"\]\((https://colab\.[^)]*\.ipynb)\)", path.read_text(encoding="utf-8"))
    own = f"{COLAB}/blob/{RELEASE}/{path.relative_to(ROOT).as_posix()}"
    assert links == [own] if code_cells(path) else set(links) <= {own}


@every_notebook
def test_setup_cell_is_first_and_the_same_everywhere(path: Path) -> None:
    chapters = [other for other in NOTEBOOKS if code_cells(other)]
    if path in chapters:
        assert tagged(path, "setup") == [code_cells(path)[0].source]
        assert tagged(path, "setup") == tagged(chapters[0], "setup")
        assert f"git+{ADDRESS}@{RELEASE}\"" in tagged(path, "setup")[0]


@every_notebook
def test_cells_are_folded_where_the_code_is_not_the_lesson(path: Path) -> None:
    known = {"setup", "parameters", "hide-input", "hide-cell", "remove-output"}
    for cell in code_cells(path):
        tags = set(cell.metadata.get("tags", []))
        assert tags <= known, tags - known
        imports = [line.startswith(("import ", "from ")) for line in cell.source.splitlines()]
        if "setup" in tags or imports[0] and sum(imports) > 6:
            assert "hide-input" in tags, f"{cell.id} needs the tag hide-input"
        assert not {"parameters", "hide-input"} <= tags, "readers change the parameters"


def lines_of_code(sources: list[str]) -> int:
    lines = [line.strip() for source in sources for line in source.splitlines()]
    return sum(1 for line in lines if line and not line.startswith("#"))


@every_notebook
def test_chapter_has_little_code_and_no_line_is_clipped(path: Path) -> None:
    sources = [cell.source for cell in code_cells(path)]
    assert lines_of_code(sources) <= MOST_LINES, "move what is not the lesson into the package"
    assert lines_of_code(tagged(path, "hide-cell")) <= MOST_OF_SOLUTIONS
    folded = tagged(path, "setup")  # with a long address
    for source in sources:
        clipped = [line for line in source.splitlines() if len(line) > WIDEST]
        assert source in folded or not clipped


@every_notebook
def test_simulated_images_are_drawn_by_what_marks_them(path: Path) -> None:
    code = "\n".join(cell.source for cell in code_cells(path))
    assert "plots.mark(" not in code or "imshow(" not in code


@every_notebook
def test_chapter_is_short_and_has_no_exercise_without_a_solution(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert len(text.split()) <= MOST_WORDS
    exercises = re.search(r"^## Exercises\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    if exercises:
        asked = re.findall(r"^(\d)\. ", exercises[1], re.MULTILINE)
        solved = re.findall(r"^# (\d):", "\n".join(tagged(path, "hide-cell")), re.MULTILINE)
        assert 1 <= len(asked) <= 4 and solved == asked


# --- package, profiles, links ------------------------------------------------------------------


def test_ruff() -> None:
    folders = [name for name in ("micranet_helpers", "tests", "benchmarks", "book", ".ci")
               if (ROOT / name).is_dir()]
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@every_module
def test_functions_of_the_package_are_short(path: Path) -> None:
    for node in functions(path.read_text(encoding="utf-8")):
        start = node.body[1].lineno if ast.get_docstring(node) and node.body[1:] else node.lineno
        assert node.end_lineno - start < 50, node.name


@every_module
def test_public_names_are_documented(path: Path) -> None:
    module = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(module)
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


@pytest.mark.parametrize("name", ["smoke", "quick", "full", "online", "networks"])
def test_profile_names_known_chapters_and_parameters(name: str) -> None:
    limit, _ = runner.load_profile(BOOK, name)
    assert limit > 0


def test_links_to_the_repository_have_one_address() -> None:
    name = ADDRESS.rsplit("/", 1)[1]
    files = [ROOT / "README.md", ROOT / "LICENSE", *MODULES, *NOTEBOOKS, *BOOK.glob("*.*"),
             ROOT / "Makefile", *(ROOT / ".github").rglob("*.yml")]
    for path in filter(Path.is_file, files):
        for url in re.findall(r"https?://[^\s\"'<>()\[\]\\]+", path.read_text(encoding="utf-8")):
            if f"/{name}" in url:
                assert url.startswith((ADDRESS, COLAB)), f"{path.name}: {url}"


def test_pages_read_well_without_sphinx() -> None:
    # Colab and GitHub show no text for an empty link, and a role as it is written.
    for path in [*NOTEBOOKS, *BOOK.glob("*.md"), ROOT / "README.md"]:
        text = path.read_text(encoding="utf-8")
        assert "[](" not in text, path.name
        assert path.suffix == ".md" or not re.findall(r"\{[\w:]+\}`.*?`", text), path.name


def test_what_is_cited_is_in_the_bibliography_and_the_other_way_round() -> None:
    works = (BOOK / "references.bib").read_text(encoding="utf-8")
    known = {f"https://doi.org/{doi}" for doi in re.findall(r"doi *= \{(.+)\}", works)}
    known |= {f"https://arxiv.org/abs/{name}" for name in re.findall(r"eprint *= \{(.+)\}", works)}
    assert len(known) == works.count("\n@") + 1
    texts = [path.read_text(encoding="utf-8") for path in [*NOTEBOOKS, *BOOK.glob("*.md")]]
    cited = re.compile(r"\[[^\]]+ \d{4}\]\((https://(?:[^()\s]|\([^()\s]*\))+)\)")
    assert {link for text in texts for link in cited.findall(text)} == known


def test_links_of_the_readme_to_files_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert "LICENSE" in links and all((ROOT / link).exists() for link in links)


def test_messages_under_troubleshooting_are_those_of_the_package() -> None:
    of_others = ("CUDA out of memory", "DataLoader worker", "Kernel died")
    page = (BOOK / "troubleshooting.md").read_text(encoding="utf-8")
    nodes = (node for path in MODULES for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    texts = {node.value for node in nodes
             if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for message in re.findall(r"```text\n(.+)\n```", page):
        if not message.startswith(of_others):
            for part in message.split("…"):
                assert any(part.strip() in text for text in texts), message


def test_colab_opens_from_the_pages_what_the_badges_open() -> None:
    book = yaml.safe_load((BOOK / "_config.yml").read_text(encoding="utf-8"))
    assert book["repository"]["branch"] == RELEASE


def test_a_release_sets_version_and_address(tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("needs git")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    colab = f"{COLAB}/blob/{RELEASE}/x.ipynb"
    (tmp_path / "README.md").write_text(f"{ADDRESS}/issues {colab} git+{ADDRESS}@{RELEASE}\n")
    (tmp_path / "logo.bin").write_bytes(b"\xff\r\n")
    script, new = ROOT / ".ci" / "release.py", "https://github.com/lab/masks"
    subprocess.run([sys.executable, script, "2.0.1", new], cwd=tmp_path, check=True)
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (project["urls"]["Repository"], project["version"]) == (new, "2.0.1")
    colab = "https://colab.research.google.com/github/lab/masks/blob/v2.0.1/x.ipynb"
    assert (tmp_path / "README.md").read_text() == f"{new}/issues {colab} git+{new}@v2.0.1\n"
    assert (tmp_path / "logo.bin").read_bytes() == b"\xff\r\n"
    wrong = subprocess.run([sys.executable, script, "next"], cwd=tmp_path, capture_output=True)
    assert wrong.returncode == 1 and b"usage" in wrong.stderr


# --- lock file and conda environment -----------------------------------------------------------


def project_requirements() -> list[Requirement]:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]  # readers of microscopes are not for the book
    groups = [project["dependencies"], *(extras[name] for name in extras.keys() - {"microscopes"})]
    return [Requirement(text) for group in groups for text in group]


def constraints() -> dict[str, SpecifierSet]:
    parsed = map(Requirement, PROJECT["tool"]["uv"]["constraint-dependencies"])
    return {item.name: item.specifier for item in parsed}


def lock_blocks() -> list[tuple[Requirement, int]]:
    """Each pin of the lock file, with the number of its hashes."""
    blocks = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text(encoding="utf-8"))
    pins = [block for block in blocks if not block.startswith("#")]
    return [
        (Requirement(block.split("\n")[0].rstrip("\\ ")), block.count("--hash=sha256:"))
        for block in pins
    ]


def pins_here() -> dict[str, str]:
    """Version of each package that the lock file pins for this Python and system."""
    pins = [pin for pin, _ in lock_blocks() if pin.marker is None or pin.marker.evaluate()]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}


def reached() -> dict[str, list[SpecifierSet]]:
    """What the project needs, directly or not, by the metadata of the installed packages."""
    found = defaultdict(list)
    for item in walk(project_requirements()):
        found[canonicalize_name(item.name)].append(item.specifier)
    return found


def test_lock_pins_all_that_is_needed_and_nothing_else() -> None:
    pins, needed = pins_here(), reached()
    assert set(pins) == set(needed), "run: make lock"
    for name, specifiers in needed.items():
        for specifier in specifiers:
            assert specifier.contains(pins[name], prereleases=True), f"{name}{specifier}"


def test_every_pin_is_exact_and_has_hashes() -> None:
    for pin, hashes in lock_blocks():
        assert re.fullmatch(r"==[^,*]+", str(pin.specifier)) and hashes, pin


def test_torch_and_torchvision_are_pinned_as_a_pair() -> None:
    pinned = {f"{name}=={pins_here()[name]}" for name in ("torch", "torchvision")}
    assert pinned == set(PROJECT["tool"]["uv"]["constraint-dependencies"])


def test_conda_environment_agrees_with_the_project() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    *specs, pip = environment["dependencies"]
    assert pip["pip"][-1] == "-e ."
    for spec in specs:
        rattler.MatchSpec(spec, strict=True)

    found = dict((spec.split(" ", 1) + [""])[:2] for spec in specs)
    assert found.pop("pip") == ""
    tested = [text.rsplit(".", 1)[1] for text in PROJECT["project"]["classifiers"]
              if re.search(r":: 3\.\d+$", text)]
    assert SpecifierSet(found.pop("python")) == SpecifierSet(
        f"{PROJECT['project']['requires-python']},<3.{max(map(int, tested)) + 1}"
    )
    bounds = {CONDA_NAMES.get(name, name): SpecifierSet(text) for name, text in found.items()}
    bounds |= {item.name: item.specifier for item in map(Requirement, pip["pip"][:-1])}
    assert bounds == {item.name: item.specifier for item in project_requirements()} | constraints()
