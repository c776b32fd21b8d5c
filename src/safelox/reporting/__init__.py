"""Results as one page that needs nothing else, and as figures and tables for papers. No model is opened.

found.py       what was found, in one shape whoever wrote it
words.py       rates in words
reading.py     read it from an experiment's folder, or from any with results
standings.py   how defences stand after attacks: the worst for each, and attack by attack
remarks.py     what to know before believing the first sentence
headline.py    what the page says first
table.py       tables, for the page, spreadsheets and papers
chart.py       charts as data
groups.py      models by their defences, for charts of one pair
bars.py        what every reply was
safety.py      the ASR before and after attacks, over-refusal
utility.py     utility against safety
worst.py       tables of worst cases, and of what was published beside what came out
drift.py       R_align and R_ft
curves.py      rank curves
planes.py      landscapes
spectra.py     spectra
searches.py    searches for rank and coefficient
sections.py    the parts of the page in their order
browser.py     the replies, packed
provenance.py  versions, settings, hashes
page.py        the page, from the templates, styles and scripts in page/
drawing.py     charts as pictures
papers.py      pictures and tables for papers
making.py      report: where the above meet
"""

from safelox.reporting.making import ReportResult, report

__all__ = ["ReportResult", "report"]
