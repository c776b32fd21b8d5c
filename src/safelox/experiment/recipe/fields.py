"""The values that keys of a recipe may have."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainValidator

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""Names become names of folders."""


def listed(value: object) -> object:
    """One value stands for a list of one."""
    return value if isinstance(value, list | tuple) else (value,)


def _rank(value: object) -> int | Literal["full"]:
    if value == "full":
        return "full"
    if type(value) is int and value >= 1:
        return value
    raise ValueError("expected an integer from 1, or full")


def _integer(value: object) -> int:
    """YAML reads yes and no as truth values, which Python counts among the integers."""
    if type(value) is not int:
        raise ValueError("expected an integer")
    return value


Name = Annotated[str, Field(pattern=NAME)]
Rank = Annotated[int | Literal["full"], PlainValidator(_rank)]
Integer = Annotated[int, BeforeValidator(_integer)]
Count = Annotated[Integer, Field(ge=1)]
Seeds = Annotated[tuple[Annotated[Integer, Field(ge=0)], ...], BeforeValidator(listed), Field(min_length=1)]
Names = Annotated[tuple[str, ...], BeforeValidator(listed)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
