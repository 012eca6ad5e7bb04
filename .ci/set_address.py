"""Move the book to another public address: python .ci/set_address.py https://github.com/OWNER/REPO

The address stands in pyproject.toml ([project.urls] Repository); links and badges repeat it.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

GITHUB = "https://github.com/"  # the Colab badges can open notebooks from there only

new = sys.argv[1].rstrip("/").removesuffix(".git") if len(sys.argv) == 2 else ""
if not new.startswith(GITHUB):
    sys.exit(f"usage: python .ci/set_address.py {GITHUB}OWNER/REPO")
project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
old = project["urls"]["Repository"]
listed = subprocess.run(
    ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    check=True, capture_output=True, text=True,
).stdout
before, after = (url.removeprefix(GITHUB).encode() for url in (old, new))
for path in map(Path, filter(None, listed.split("\0"))):
    if path.is_file() and before in (content := path.read_bytes()):
        path.write_bytes(content.replace(before, after))
        print(path)
