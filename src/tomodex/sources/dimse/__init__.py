"""PACS over DIMSE: found by C-FIND, retrieved by C-GET or C-MOVE.

source.py        the Source: all of it put together
options.py       what the URL can set
association.py   an association, watched while the archive answers
statuses.py      what an archive's refusals mean
queries.py       questions, as C-FIND writes them, and answers
splitting.py     whole answers from an archive that caps them
limits.py        how many answers an archive gives at once
storing.py       instances that arrive, written as they were sent
retrieving.py    C-GET, or C-MOVE to a port of ours
probing.py       what `tomodex doctor` looks at
"""
