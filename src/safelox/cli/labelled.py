"""Label and value side by side: how all results are shown to people."""

_LABEL_WIDTH = 20


def labelled(*rows: tuple[str, str]) -> list[str]:
    """Label and value, side by side; a label that repeats the one above it is left out."""
    labels = ["" if i and rows[i - 1][0] == label else label for i, (label, _) in enumerate(rows)]
    margin = "\n" + " " * (_LABEL_WIDTH + 2)
    return [
        f"  {label:{_LABEL_WIDTH}}{value.replace(chr(10), margin)}"
        for label, (_, value) in zip(labels, rows, strict=True)
    ]
