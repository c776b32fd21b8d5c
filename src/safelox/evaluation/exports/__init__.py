"""Results in the forms that other tools read.

finished.py     finished results, read back from their folder
tables.py       CSV files with the columns of the paper's own scripts
inspect.py      logs for `inspect view`
tamperbench.py  TamperBench's three files
exporting.py    export: where the above meet
"""

from safelox.evaluation.exports.exporting import EXPORTS, Exported, export

__all__ = ["EXPORTS", "Exported", "export"]
