"""The folder being written: whole under its final name, or not there at all.

A result grows in `OUT.partial` beside OUT and is renamed at the very end. Until then a journal in that folder
lists the items whose bytes are known to be on disk, so that a run that was killed, or whose machine lost
power, goes on from there. The journal is locked while a run writes; a dead process leaves no lock behind.

    target.py    Target: what callers see; the two threads that work beside theirs
    place.py     OUT and the partial folder beside it: made, locked, cleared, renamed or removed
    outfile.py   one weights file: which of its bytes are written, and its hash so far
    journal.py   the lock and the list of durable items
    disk.py      where a result may be written, and errors of the file system in plain words
"""

from safelox.manifest import MANIFEST_NAME
from safelox.writer.target import FileHash, FilePlan, Target

__all__ = ["MANIFEST_NAME", "FileHash", "FilePlan", "Target"]
