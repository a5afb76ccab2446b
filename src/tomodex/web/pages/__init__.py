"""The pages of `tomodex serve`: HTML that is whole without a script, each address a question.

routes.py      mounts them                rendering.py  templates, numbers for people, errors
search.py      the search, its parts:     refining.py   values to choose, each a link
                                          edits.py      questions with a part more or less
                                          asking.py     what a question speaks of
                                          strip.py      what a series shows from head to foot
                                          body.py       the picture of the body
                                          drawing.py    its shapes
series.py      one series                 structures.py the vocabulary
cohorts.py     saved cohorts              operations.py the queue and the archives
                                          calendar.py   days of the archives, year by year
"""
