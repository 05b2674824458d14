"""A page of headings, words, tables, pictures and code, as one HTML file that asks for nothing, and as Markdown."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from zoo.files import writing


@dataclass(frozen=True)
class Heading:
    """The beginning of a section."""

    text: str


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of cells under a row of titles."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A PNG or GIF, with the name of its file, what it shows, and what is to be seen on it."""

    file: str
    content: bytes
    caption: str


@dataclass(frozen=True)
class Row:
    """Pictures beside each other, as far as the page is wide enough."""

    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Code:
    """Text as it is, in a language."""

    text: str
    language: str


Block = Heading | Words | Table | Picture | Row | Code

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1c1e; --quiet: #66666c; --line: #d6d6da; --card: #f5f5f7; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #161618; --ink: #ececee; --quiet: #a0a0a8; --line: #3a3a40; --card: #222226; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem; max-width: 56rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; border-bottom: 1px solid var(--line); }
th { font-weight: 600; } th, td { white-space: nowrap; }
figure { margin: 1rem 0; break-inside: avoid; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
.row { display: flex; flex-wrap: wrap; gap: 0 1.2rem; } .row figure { flex: 1 1 18rem; }
figcaption { margin-top: .4rem; color: var(--quiet); font-size: .9rem; }
pre { overflow-x: auto; padding: .8rem; background: var(--card); border-radius: 4px; font-size: .85rem; }
@media print {
  :root { --paper: #fff; --ink: #000; --quiet: #444; --line: #bbb; --card: #f5f5f7; color-scheme: light; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2 { break-after: avoid; } table, pre { break-inside: avoid; } pre { white-space: pre-wrap; }
  .wide { overflow: visible; } th, td { white-space: normal; padding-right: .3rem; }
  img[src^="data:image/gif"], img[src^="data:image/gif"] + figcaption { display: none; }
}
"""


def html(title: str, blocks: Sequence[Block]) -> str:
    """One file: styles and pictures are inside, and its policy forbids every request.

    Example:
        >>> "<td>1 &lt; 2</td>" in html("Mine", [Table(["a"], [["1 < 2"]])])
        True
    """
    body = "\n".join(map(_as_html, blocks))
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{body}
</main>
</body>
</html>
"""


def markdown(title: str, blocks: Sequence[Block]) -> str:
    """The same, with the pictures as files beside it.

    Example:
        >>> print(markdown("Mine", [Words("All of it."), Table(["a"], [["1 | 2"]])]))
        # Mine
        <BLANKLINE>
        All of it.
        <BLANKLINE>
        | a |
        |---|
        | 1 \\| 2 |
        <BLANKLINE>
    """
    return "\n\n".join([f"# {_plain(title)}", *map(_as_markdown, blocks)]) + "\n"


def save(title: str, blocks: Sequence[Block], folder: Path) -> list[Path]:
    """Write ``index.html``, ``report.md`` and the pictures; returns all of them, the page first."""
    files = {"index.html": html(title, blocks).encode(), "report.md": markdown(title, blocks).encode()}
    shown = [picture for block in blocks for picture in (block.pictures if isinstance(block, Row) else [block])]
    files |= {picture.file: picture.content for picture in shown if isinstance(picture, Picture)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with writing(folder / name) as staged:
            staged.write_bytes(content)
    return [folder / name for name in files]


def _as_html(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{escape(text)}</h2>"
        case Words(text):
            return f"<p>{escape(text)}</p>"
        case Table(titles, rows):
            head = "".join(f"<th>{escape(title)}</th>" for title in titles)
            body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
            table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            return f'<div class="wide" tabindex="0">{table}</div>'
        case Picture(file, content, caption):
            kind = "gif" if file.endswith(".gif") else "png"
            source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
            said = escape(caption)
            return f'<figure><img src="{source}" alt="{said}"><figcaption>{said}</figcaption></figure>'
        case Row(beside):
            return f'<div class="row">{"".join(map(_as_html, beside))}</div>'
        case Code(text, _):
            return f"<pre><code>{escape(text)}</code></pre>"


def _as_markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {_plain(text)}"
        case Words(text):
            return _plain(text)
        case Table(titles, rows):
            lines = [titles, *rows]
            cells = [[_plain(cell) for cell in line] for line in lines]
            head, *body = [f"| {' | '.join(line)} |" for line in cells]
            return "\n".join([head, "|---" * len(titles) + "|", *body])
        case Picture(file, _, caption):
            said = _plain(caption)
            return f"![{said}]({file})\n\n*{said}*"
        case Row(beside):
            return "\n\n".join(map(_as_markdown, beside))
        case Code(text, language):
            # Longer than any fence inside.
            fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
            return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, in one line. An underscore inside a word means nothing and stays."""
    return re.sub(r"[\\`*\[\]<>&|~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(text.split()))
