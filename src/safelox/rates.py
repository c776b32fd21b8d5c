"""A rate as it is reported everywhere: never without its count and interval."""

from safelox.manifest import Record


class Rate(Record):
    """A share of `n` replies, with its 95 % Wilson interval; all NaN where there are none."""

    count: int
    n: int
    value: float
    low: float
    high: float
