"""Print a benchmark's table, and keep it for the book."""

from pathlib import Path

from micranet_helpers.lessons.results import folded


def report(head: str, rows: list[list[str]], save: Path | None) -> None:
    """Print a line of context and a Markdown table; write both to ``save`` if it is given.

    Parameters
    ----------
    head : str
        Date, machine, versions and settings, in a sentence.
    rows : list of lists of str
        The table; its first row holds the titles.
    save : Path or None
        A Markdown file.
    """
    titles, *body = (f"| {' | '.join(row)} |" for row in rows)
    text = f"{head}\n\n{folded([titles, '|' + '---|' * len(rows[0]), *body])}"
    print(text)
    if save:
        save.write_text(text + "\n", encoding="utf-8")
