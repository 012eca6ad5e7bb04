"""Prepare a release, and where it is published: python .ci/release.py VERSION [ADDRESS]

Sets the version, and with it what Colab opens and installs: chapters and package of that release.
With an address, https://github.com/OWNER/REPO, the book moves there. Then commit, `git tag
vVERSION`, and push both. Both stand in pyproject.toml; links, badges and set-up cells repeat them.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

GITHUB = "https://github.com/"  # the Colab badges can open notebooks from there only
PLACES = "/blob/v{}/", "@v{}", "branch: v{}", 'version = "{}"'  # of what is released

arguments = sys.argv[1:]
project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
old_address, old = project["urls"]["Repository"], project["version"]
new, address = [*arguments, old_address][:2] if 1 <= len(arguments) <= 2 else ("", "")
address = address.rstrip("/").removesuffix(".git")
if not re.fullmatch(r"\d+\.\d+\.\d+", new) or not address.startswith(GITHUB):
    sys.exit(f"usage: python .ci/release.py 1.2.3 [{GITHUB}OWNER/REPO]")
changes = [(place.format(old), place.format(new)) for place in PLACES]
changes.append((old_address.removeprefix(GITHUB), address.removeprefix(GITHUB)))
listed = subprocess.run(
    ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    check=True, capture_output=True, text=True,
).stdout
for path in map(Path, filter(None, listed.split("\0"))):
    if not path.is_file():
        continue
    content = before = path.read_bytes()
    for was, becomes in changes:
        content = content.replace(was.encode(), becomes.encode())
    if content != before:
        path.write_bytes(content)
        print(path)
