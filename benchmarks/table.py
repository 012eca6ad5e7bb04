"""Print a benchmark's table, and keep it for the book."""

from pathlib import Path

MOST_ROWS = 8  # more are folded on the page


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
    head_rows = [titles, "|" + "---|" * len(rows[0])]
    text = "\n".join([head, "", *head_rows, *body[:MOST_ROWS]])
    if folded := body[MOST_ROWS:]:
        summary = f"<details><summary>{len(folded)} more rows</summary>"
        text += "\n".join(["", "", summary, "", *head_rows, *folded, "", "</details>"])
    print(text)
    if save:
        save.write_text(text + "\n", encoding="utf-8")
