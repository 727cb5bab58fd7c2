"""Write the lifecycle's diagram and table into README and docs: `python docs/regenerate.py`.

They stand between a comment that names what they are, `<!-- lifecycle.mermaid() -->` or
`<!-- lifecycle.TABLE -->`, and `<!-- end -->`. `tests/test_docs.py` fails when they are old.
"""

from __future__ import annotations

import re
from pathlib import Path

from trio_tasks.processor import lifecycle

ROOT = Path(__file__).parent.parent
FILES = (ROOT / "README.md", ROOT / "docs" / "lifecycle.md")


def diagram() -> str:
    """The lifecycle as a Mermaid block."""
    return f"```mermaid\n{lifecycle.mermaid()}\n```"


def table() -> str:
    """The lifecycle as a Markdown table."""
    lines = ["| from | step | to | by | when |", "|---|---|---|---|---|"]
    for row in lifecycle.TABLE:
        source = "" if row.source is None else row.source.value
        lines.append(f"| {source} | `{row.step}` | {row.target.value} | {row.by} | {row.why} |")
    return "\n".join(lines)


def regenerated(text: str) -> str:
    """A document with its generated parts as they should be."""
    for name, part in (("lifecycle.mermaid()", diagram()), ("lifecycle.TABLE", table())):
        begin, end = f"<!-- {name} -->\n", "<!-- end -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        text = pattern.sub(lambda _, new=f"{begin}{part}\n{end}": new, text)
    return text


if __name__ == "__main__":
    for file in FILES:
        file.write_text(regenerated(file.read_text()))
