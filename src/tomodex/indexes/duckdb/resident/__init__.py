"""What a long-lived process keeps of an index in memory, so that no writer holds up a search.

bits.py         sets of series, a bit each
texts.py        many short texts in one piece of memory
column.py       an attribute of many series
block.py        series in the order of pages, with everything that is asked of them
reading.py      blocks from the file
matching.py     a term of a query -> the series of a block
image.py        the index as of one generation: a large block, a small one, and what is gone
answering.py    pages, rows, totals and strips of an image
counting.py     facets, cells and crowds of an image
keeper.py       the image that is up to date
"""
