"""Doing what is planned, whoever else is at it.

marks.py         what is done, and what is to be done
claims.py        who works on what
working.py       the loop that every process goes through
side_by_side.py  several processes
collecting.py    experiment.json from the marks
carrying.py      an experiment that has something to do
"""
