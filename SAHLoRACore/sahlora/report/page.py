"""One self-contained HTML page: loads nothing, runs nothing, escapes all text it did not write itself."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from sahlora.about import RESEARCH_USE, __version__


def render(title: str, color: str, sections: Iterable[str]) -> str:
    """Return the page's HTML.

    Parameters
    ----------
    title : str
        Heading.
    color : str
        Color of the heading's bar and of bars in charts, e.g. ``"#dd5500"``.
    sections : iterable of str
        HTML from `section`; empty ones are left out.
    """
    return PAGE.format(
        title=escape(title),
        note=RESEARCH_USE,
        color=color,
        version=__version__,
        body="\n".join(filter(None, sections)),
    )


def section(heading: str, content: str) -> str:
    """Return HTML under a heading; nothing if there is no content."""
    return f"<section><h2>{escape(heading)}</h2>\n{content}</section>" if content else ""


def facts(values: Mapping[str, str]) -> str:
    """Return a table of names and values."""
    if not values:
        return ""
    rows = "\n".join(
        f'<tr><th scope="row">{escape(_sentence(name))}</th><td>{escape(value)}</td></tr>'
        for name, value in values.items()
    )
    return f"<table>\n{rows}\n</table>\n"


def sentences(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of words."""
    return _table("sentences", columns, rows)


def figures(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of figures, the first column a name."""
    return _table("figures", columns, rows)


def _table(kind: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>\n'


def bullets(sentences: Iterable[str]) -> str:
    """Return a list of sentences."""
    items = "\n".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>\n{items}\n</ul>\n" if items else ""


def caption(text: str) -> str:
    """Return a quiet line below a table or picture."""
    return f'<p class="caption">{escape(text)}</p>\n'


def image(png: bytes, words: str) -> str:
    """Return a picture that is part of the page, and what it shows in words."""
    data = base64.b64encode(png).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{escape(words)}">\n'


def _sentence(name: str) -> str:
    return name[:1].upper() + name[1:]


PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --text: #1b1d21; --quiet: #5b616b; --line: #d9dce1; --page: #ffffff; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --text: #f2f3f5; --quiet: #a9adb5; --line: #33363d; --page: #17181c; }}
}}
body {{ margin: 2rem auto; padding: 0 1.25rem; max-width: 58rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.75rem; line-height: 1.2; margin: 0; padding-left: 0.75rem;
  border-left: 0.5rem solid {color}; }}
h2 {{ font-size: 1.125rem; margin: 2rem 0 0.5rem; }}
p.note {{ font-weight: 600; }}
p.caption, footer {{ color: var(--quiet); font-size: 0.875rem; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
th, td {{ border-bottom: 1px solid var(--line); padding: 0.35rem 0.75rem 0.35rem 0; text-align: left;
  vertical-align: top; }}
th[scope=row] {{ width: 22rem; font-weight: 500; color: var(--quiet); }}
table.figures th, table.figures td {{ text-align: right; }}
table.figures th:first-child, table.figures td:first-child {{ text-align: left; }}
img, svg {{ display: block; width: 100%; height: auto; }}
svg text {{ fill: var(--quiet); font-size: 12px; }}
svg line {{ stroke: var(--line); }}
svg rect {{ fill: {color}; shape-rendering: crispEdges; }}
@media print {{ body {{ margin: 0; max-width: none; }} section {{ break-inside: avoid; }} }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="note">{note}.</p>
{body}
</main>
<footer>Made with SAHLoRA {version}. Millimeters and milliliters follow from the spacing stored with the scan.
</footer>
</body>
</html>
"""
