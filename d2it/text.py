"""Tables of short texts as Markdown, as LaTeX (booktabs) and for a terminal; texts of strangers."""

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `d2it plan --help` needs no tables
    import pandas as pd


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "²": "$^2$",
    "±": r"$\pm$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "–": "--",
    "−": "$-$",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def markdown(frame: "pd.DataFrame", title: str, first: str, below: Sequence[str]) -> str:
    """The first line in italics, the table with its columns aligned, remarks below."""
    table = markdown_table(list(frame.columns), frame.values.tolist())
    return "\n\n".join([f"*{first}*", f"**{title}**", table, *below]) + "\n"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """With its columns aligned."""
    cells = [[cell.replace("|", r"\|") for cell in row] for row in (columns, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def latex(frame: "pd.DataFrame", title: str, first: str, below: Sequence[str], label: str) -> str:
    """A table environment that needs booktabs and graphicx; `first` is a comment and captioned."""
    texts: list[list[str]] = [list(frame.columns), *frame.values.tolist()]
    header, *rows = (" & ".join(map(escape, row)) + r" \\" for row in texts)
    caption = " ".join([title, first.replace("`", ""), *below])
    return "\n".join(
        [
            f"% {first}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(caption)}}}",
            rf"\label{{tab:{label}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{'l' * len(frame.columns)}}}",
            r"\toprule",
            header,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )


def escape(text: str) -> str:
    """`text` for LaTeX: its special characters, and the few that are not ASCII."""
    return re.sub("|".join(map(re.escape, LATEX)), lambda match: LATEX[match[0]], text)


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Lines for a terminal: columns of numbers to the right, those of `left` to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def printable(text: str, longest: int = 300) -> str:
    """What a stranger wrote, for a sentence: no control characters, and not without end."""
    shown = text if len(text) <= longest else f"{text[:longest]}…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)


def amount(number: int) -> str:
    """Three digits are enough to watch: 640, 25.6k, 1.02G."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)


def duration(seconds: float) -> str:
    """As people say it: 40 s, 12 min, 3 h, 4 d."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    return f"{hours} h" if hours < 72 else f"{round(hours / 24)} d"
