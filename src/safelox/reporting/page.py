"""The page: one HTML file with all that it needs, from which no request can leave."""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safelox import __version__
from safelox.errors import PrerequisiteError
from safelox.reporting.browser import LONGEST, pack
from safelox.reporting.chart import Section
from safelox.reporting.found import Found
from safelox.reporting.headline import Headline, overview
from safelox.reporting.provenance import provenance

_PARTS = Path(__file__).parent / "page"
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def require_page() -> None:
    """
    Raises:
        PrerequisiteError: what the page is made with is not installed.
    """
    try:
        import jinja2  # noqa: F401 (only whether it is there)
        import plotly.offline  # noqa: F401
    except ImportError as error:
        raise PrerequisiteError(
            "the page is made with jinja2 and plotly, which are not both installed: pip install 'safelox[report]'"
        ) from error


def render_page(found: Found, headlines: Sequence[Headline], sections: Sequence[Section]) -> str:
    """The HTML of the page."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PARTS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    browser = pack(found)
    charts = [chart for section in sections for figure in section.figures for chart in figure.charts]
    scripts = [*([_plotly(), _text("charts.js")] if charts else []), _text("page.js")]
    return environment.get_template("page.html").render(
        found=found,
        headlines=headlines,
        sections=sections,
        browser=browser,
        longest=LONGEST,
        overview=overview(found),
        provenance=provenance(found),
        version=__version__,
        style=Markup(_text("page.css")),
        scripts=[Markup(script) for script in scripts],
        policy=_policy(scripts),
        charts=Markup(embed_json([chart.model_dump(mode="json", exclude={"table"}) for chart in charts])),
    )


def embed_json(document: Any) -> str:
    """JSON that stays what it is inside a script element of HTML, whatever its strings hold."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return "".join(_ESCAPES.get(sign, sign) for sign in text)


def _policy(scripts: Sequence[str]) -> str:
    """What the browser may do: run these scripts and no others, and fetch nothing."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _text(name: str) -> str:
    return (_PARTS / name).read_text(encoding="utf-8")


def _plotly() -> str:
    """plotly.js as its package ships it, in a form that may stand inside a script element."""
    from plotly.offline import get_plotlyjs

    source: str = get_plotlyjs()
    return source.replace("</script", "<\\/script").replace("<!--", "<\\!--")
