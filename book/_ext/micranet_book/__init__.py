"""Make the book of its chapters: for those who have a clone.

- ``runner``: execute chapters, build pages; ``record``: which chapters need no new run;
  ``faults``: say on a page how its chapter failed; ``status``: times and versions of a run.
- ``pages``: the Sphinx extension for all pages; ``browser``: that for the page that runs networks,
  with packages of ``npm``; ``lean`` keeps out of the site what no page asks for.
"""
