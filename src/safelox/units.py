"""Sizes, counts and durations as people write and read them."""

import re

from safelox.errors import UsageError

BYTES = "B"
"""The unit of progress tasks that count bytes."""

_FACTORS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_BINARY_FACTORS = {"k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


def parse_bytes(text: str) -> int:
    """Number of bytes that a size such as `2GB`, `1.5 GB`, `512MiB` or `2000000` stands for.

    Without the i, units are powers of 1000 (`2G` is `2GB`); with it, powers of 1024.

    Raises:
        UsageError: the text is not a size.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(i?)b?", text.strip(), re.IGNORECASE)
    if match is None or (match[3] and not match[2]):
        raise UsageError(f"{text!r} is not a size: write a number and a unit, such as 2GB, 512MiB or 2000000.")
    factors = _BINARY_FACTORS if match[3] else _FACTORS
    return int(float(match[1]) * factors[match[2].lower()])


def format_bytes(size: float) -> str:
    """`13.5 GB`: three significant digits, powers of 1000."""
    return _scaled(size, (" B", " kB", " MB", " GB", " TB"))


def format_count(count: float) -> str:
    """`6.74B`: three significant digits; B is a thousand million."""
    return _scaled(count, ("", "K", "M", "B", "T"))


def format_seconds(seconds: float) -> str:
    """`0:08`, `12:30` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_amount(amount: float, unit: str) -> str:
    """An amount of a progress task: bytes as bytes, everything else as a count with its unit."""
    return format_bytes(amount) if unit == BYTES else f"{format_count(amount)} {unit}".rstrip()


def format_part(done: float, total: float, unit: str) -> str:
    """`56.2M of 134M params` or `1.20 GB of 3.40 GB`."""
    first = format_bytes(done) if unit == BYTES else format_count(done)
    return f"{first} of {format_amount(total, unit)}"


def _scaled(value: float, suffixes: tuple[str, ...]) -> str:
    step = 0
    # 999.5 would be written as 1000: it belongs to the next unit.
    while value >= 999.5 and step < len(suffixes) - 1:
        value /= 1000
        step += 1
    whole = value >= 99.95 or (step == 0 and value == round(value))
    digits = 0 if whole else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}{suffixes[step]}"
