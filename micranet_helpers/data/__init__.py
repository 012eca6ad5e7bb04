"""Arrays in, arrays out: the datasets of the book, one module each."""
