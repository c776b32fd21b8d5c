"""The folders in which data sets are looked for."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where fetched data sets go: $XDG_CACHE_HOME/safelox/data, or ~/.cache/safelox/data."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "safelox" / "data"


def usual_folders() -> list[Path]:
    """$SAFELOX_DATA, where it is set, and the cache."""
    named = os.environ.get("SAFELOX_DATA")
    return [Path(named), cache_folder()] if named else [cache_folder()]
