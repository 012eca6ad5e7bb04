"""Sphinx extension: pages for screen readers and keyboards, offline, with links for terms and code.

A picture gets the caption below it as its alternative text, the theme's menu gets names for its
arrows, and the bibliography the roles of a list. The badge on top of the chapters, which GitHub
shows from Colab's address, is a picture of our own. Terms of the glossary can be linked as
``[crop](glossary.md#term-crop)``, which works on GitHub as well. Names of the package written as
code link to the reference. Pages say how long they take to read.
"""

import html
import re
import sys
import textwrap
from typing import Any

from astroid.manager import AstroidManager
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

PACKAGE = re.compile(r"micranet_helpers(\.\w+)+")
"""Code that the pages link to the reference."""

BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
"""Address in the chapters; the pages show ``book/images/open-in-colab.svg`` in its place."""

FIGURE = '<div class="wide-figure docutils container">'
"""How a page writes the box around a figure; the style sheet knows it, too."""

WORDS_A_MINUTE = 200
"""How fast a technical text is read."""

INTERNALS = (
    "data.content", "data.fetch.cli", "data.sources", "files.atomic", "files.lock",
    "files.microscopes", "files.provenance", "files.signals", "files.tables", "lessons.command",
    "lessons.subjects", "networks.precision", "networks.wrapped", "plots.png", "predict.objects",
    "predict.report", "zoo.export.shared",
)  # fmt: skip
"""Modules that no lesson calls and no page names: the reference leaves them out."""

NEEDS = "what you need"
"""First words of the table at the head of a chapter; the style sheet knows it by its class."""


def _caption_of(cell: nodes.container) -> nodes.paragraph | None:
    below = cell.next_node(descend=False, siblings=True)
    caption = isinstance(below, nodes.paragraph) and isinstance(below[0], nodes.emphasis)
    return below if caption else None


def _describe_figures(app: Sphinx, doctree: nodes.document) -> None:
    for cell in doctree.findall(nodes.container):
        pictures = list(cell.findall(nodes.image))
        if cell.get("nb_element") != "cell_code" or not pictures:
            continue
        caption = _caption_of(cell)
        if caption is None:
            continue
        caption["classes"].append("caption-text")
        for number, picture in enumerate(pictures, 1):
            box = nodes.container("", classes=["wide-figure"])
            picture.replace_self(box)
            box += picture
            several = f"Picture {number} of {len(pictures)}. " if len(pictures) > 1 else ""
            picture["alt"] = several + caption.astext().replace("\n", " ")


def _take_own_pictures(app: Sphinx, name: str, source: list[str]) -> None:
    # On Colab a chapter is alone: its pictures have an address in the repository.
    address = app.config.html_theme_options["repository_url"]
    source[0] = source[0].replace(f"{address}/raw/main/book/", "/")
    source[0] = source[0].replace(BADGE, "/images/open-in-colab.svg")


def _mark_needs(app: Sphinx, doctree: nodes.document) -> None:
    for table in doctree.findall(nodes.table):
        if table.astext().lstrip().startswith(NEEDS):
            table["classes"].append("needs")


def _skip_internals(
    app: Sphinx, what: str, name: str, item: Any, skip: bool, options: Any
) -> bool | None:  # fmt: skip
    return True if name.removeprefix("micranet_helpers.") in INTERNALS else None


def _words(node: nodes.Node) -> int:
    """Count the words to be read: no code, nothing that code printed, no table: it is looked at."""
    if isinstance(node, nodes.Text):
        return len(node.split())
    unread = isinstance(node, (nodes.literal_block, nodes.table))
    unread = unread or node.get("nb_element") == "cell_code"
    return 0 if unread else sum(map(_words, node.children))


def _say_how_long(app: Sphinx, doctree: nodes.document) -> None:
    title = doctree.next_node(nodes.title)
    words = _words(doctree)
    if title is None or words < 100 or app.env.docname.startswith(("api/", "bibliography")):
        return
    minutes = max(round(words / WORDS_A_MINUTE), 1)
    text = f"{minutes} minute{'s' * (minutes > 1)} to read"
    place = title.parent.index(title) + 1
    title.parent.insert(place, nodes.paragraph("", text, classes=["reading-time"]))


def _link_terms(app: Sphinx, doctree: nodes.document) -> None:
    # MyST looks among the headings of a page for what a link names behind its `#`.
    places = app.env.metadata[app.env.docname].setdefault("myst_slugs", {})
    for term in doctree.findall(nodes.term):
        for name in term["ids"]:
            places[name] = (term.line, name, term.astext())


def _link_package(app: Sphinx, doctree: nodes.document) -> None:
    for code in list(doctree.findall(nodes.literal)):
        name = code.astext()
        if PACKAGE.fullmatch(name) and not isinstance(code.parent, nodes.reference | pending_xref):
            link = pending_xref(
                "", refdomain="py", reftype="obj", reftarget=name, refdoc=app.env.docname
            )
            code["classes"] += ["xref", "py", "py-obj"]
            code.replace_self(link)
            link += code


def _leave_out_thebe(app: Sphinx, page: str, template: str, context: dict, doctree: Any) -> None:
    # Jupyter Book loads it twice, which the browser takes for an error; no page has a use for it.
    context["script_files"] = [
        script for script in context.get("script_files", ())
        if "thebe" not in f"{script.filename} {script.attributes.get('body')}".lower()
    ]  # fmt: skip


def _name_roles(app: Sphinx, page: str, template: str, context: dict, doctree: Any) -> None:
    if "body" in context:  # docutils writes a role that assistive technology no longer knows
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')
        # On a phone figures scroll, which must work with the keyboard, too.
        context["body"] = context["body"].replace(FIGURE, f'{FIGURE[:-1]} tabindex="0">')
    menu = context.get("generate_toctree_html")
    if menu:
        context["generate_toctree_html"] = lambda *args, **options: str(
            menu(*args, **options)
        ).replace("<summary>", '<summary aria-label="show or hide the pages below">')


def _summarise_page(app: Sphinx, page: str, template: str, context: dict, doctree: Any) -> None:
    # What a search engine shows below the title: the aim of a chapter.
    texts = [node.astext() for node in doctree.findall(nodes.paragraph)] if doctree else []
    first = next((text.removeprefix("Aim. ") for text in texts if len(text) > 40), "")
    if not first:
        return
    summary = html.escape(textwrap.shorten(first, 160, placeholder=" …"))
    context["metatags"] += f'<meta name="description" content="{summary}">'


class _Foreign:
    """Modules that the reference does not describe: neither ours nor Python's."""

    known = sys.stdlib_module_names | {"micranet_helpers"}

    def __contains__(self, name: str) -> bool:
        return name.split(".")[0] not in self.known


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx; ``extra_extensions`` of ``book/_config.yml`` names this module."""
    # Or what reads our sources would follow every import, far into torch and SciPy.
    AstroidManager.brain["module_denylist"] = _Foreign()
    app.connect("autoapi-skip-member", _skip_internals)
    app.connect("source-read", _take_own_pictures)
    app.connect("doctree-read", _describe_figures)
    app.connect("doctree-read", _mark_needs)
    app.connect("doctree-read", _say_how_long)
    app.connect("doctree-read", _link_terms)
    app.connect("doctree-read", _link_package)
    app.connect("html-page-context", _summarise_page)
    app.connect("html-page-context", _leave_out_thebe, priority=900)
    app.connect("html-page-context", _name_roles, priority=900)  # after the theme's own
    return {"parallel_read_safe": True, "parallel_write_safe": True}
