"""The recipes that come with safelox."""

from pathlib import Path

from safelox.errors import UsageError

SHIPPED = Path(__file__).parents[2] / "recipes"
"""Their folder."""


def shipped_recipes() -> list[str]:
    """Their names."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def find_recipe(recipe: str | Path) -> Path:
    """The file itself, or the recipe of that name that comes with safelox.

    Raises:
        UsageError: there is none.
    """
    path = Path(recipe)
    if path.is_file():
        return path
    if str(recipe) in shipped_recipes():
        return SHIPPED / f"{recipe}.yaml"
    raise UsageError(
        f"{recipe}: there is no such file, and no recipe of that name comes with safelox; those that do are: "
        f"{', '.join(shipped_recipes())}."
    )
