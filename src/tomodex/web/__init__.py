"""The web process, `tomodex serve`: the one part that is asynchronous.

app.py       puts it together        serving.py   runs it
guard.py     who may ask, how often  problems.py  errors as RFC 9457 has them
tasks.py     routes of tasks         orders.py    what may be ordered, and how it is written
"""
