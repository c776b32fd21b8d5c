"""Data sets of others: what is known of each, where its file is, whether it is the original, and how to get it.

table.py      KnownData, and the table of them (table.json): sources, licences, checksums
places.py     the folders in which they are looked for
checksums.py  the digests of a file
fetching.py   fetch: the original, into the user's cache
finding.py    find: the file of a data set, and what its bytes say that it is
listing.py    list_data: all of them, and what of each is there
"""

from safelox.known_data.fetching import fetch
from safelox.known_data.finding import Found, find, recognise
from safelox.known_data.listing import DataList, DataState, list_data
from safelox.known_data.places import cache_folder
from safelox.known_data.table import KnownData, Source, StandIn, find_known, known_data

__all__ = [
    "DataList",
    "DataState",
    "Found",
    "KnownData",
    "Source",
    "StandIn",
    "cache_folder",
    "fetch",
    "find",
    "find_known",
    "known_data",
    "list_data",
    "recognise",
]
