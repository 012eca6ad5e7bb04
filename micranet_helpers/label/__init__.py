"""Label images by yes and no: questions, answers on disk, training in between, advice.

- ``questions``: boxes from the whole image to a crop; ``answers``: the file that keeps them.
- ``advice``: size of crops, need of a network; ``loop``: training; ``widget``: all of it to click.
"""
