"""Find words and sentence patterns that the documentation of this repository does not use.

    python tools/prose.py             check src/, tools/ and the Markdown files
    python tools/prose.py FILE …      check these files

Docstrings, comments, strings of three words and more, and Markdown text are read; code in backquotes, code blocks and
tables of figures are not. Prints `file:line: pattern: suggestion` and exits with 1 if anything is found. A line (or
the last line of its docstring) with the comment `prose: ok` is left out.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ("src/agent_storage/sync", "src/agent_storage/types.py", "src/agent_storage/tables/__init__.py")
#: The words of the demonstration are a person's, and this file holds the patterns.
SKIPPED = (*GENERATED, "src/agent_storage/demo/words.py", "tools/prose.py", "docs/decisions")
MARKDOWN = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/*.md")

#: A pattern, and what to say instead. A sentence begins a text, or follows a full stop or an empty line.
_START = r"(?:\A|[.!?]\s+|\n\s*\n)\s*(?:[-*>#]+\s+|\*\*)*\K"
PATTERNS = (
    (_START + r"(?:Who|Whoever|Whose|Whatever|What)\b", "name the subject, or begin with a verb"),
    (r"(?i)\b(?:somebody|someone|nobody|everybody|anybody|whoever|whomever)\b", "name the user, session or process"),
    (r"\bbehind\b(?!\s+(?:\w+\s+)?(?:\w+\s+)?(?:pooler|PgBouncer|proxy|load balancer)s?\b)", "after"),
    (r"\banew\b", "again"),
    (r"\b(?:stands|stood)\b(?!\s+for\b)", "is"),
    (r"\bof\s+(?:one's|its|their|his|your|our|my|the caller's)\s+own\b", "its own …, separate, private"),
    (r"\b(?:he|she|him|his|her)\b", "it, the user"),
    (
        r"\b(?:it|server|client|manager|database|driver|pool|program|thread)\s+(?:knows|thinks|wants|believes|forgets|tells)\b",
        "a program has, reads, reports",
    ),
    (r"\bthrow(?:s|n|ing)?\s+away\b", "drop, discard"),
    (r"\b(?:a|the|no|only)\s+way\s+back\b", "a rollback file, a rollback"),
    (r"(?i)\blanes?\b", "shared connection"),
    (r"\b[Ww]ires?\b(?!\s+(?:format|protocol)\b)", "executor"),
    (r"\bcompiled\s+path\b", "prepared path"),
    (r"\bpace\b", "latency"),
    (r"\bblamed?\b", "demotion, cause"),
    (r"\bpatience\b", "adaptive spin, delay"),
    (r"\bdivisible\b", "sent in chunks"),
    (r"\bbooks\b", "tracking tables"),
    (r"\bbookkeeping\b", "tracking"),
    (r"\baftermath\b", "failure report"),
    (r"\b(?:run|runs|the)\s+outside\b(?!\s+(?:a|an|the|of)\b)", "autonomous"),
    (r"\bseeding\b", "demo data"),
    (r"\b(?:as|own|statement|SQL)\s+templates?\b", "declaration"),
)
_COMPILED = [
    (re.compile(pattern.replace(r"\K", "(?P<found>") + (")" if r"\K" in pattern else "")), say)
    for pattern, say in PATTERNS
]
_CODE = re.compile(r"``.+?``|`[^`]+`|\S+(?:_|::|\w\(|://)\S*|\S+/\S+|--[a-z][a-z-]+", re.DOTALL)
_SQL = re.compile(r"\s*(?:SELECT|INSERT|UPDATE|DELETE|WITH|CREATE|ALTER|DROP|COMMENT|SET|RESET|/\*)\b")
_FIGURES = re.compile(r"\|(?:[^|\n]*\d[^|\n]*\|){2}")


class Text(NamedTuple):
    """A piece of prose with its first and its last line."""

    text: str
    first: int
    last: int


def strings(source: str) -> Iterator[Text]:
    """Yield the docstrings of a module, and its strings of three words and more."""
    tree = ast.parse(source)
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            text = node.value
        else:
            continue
        if len(text.split()) > 2 and not _SQL.match(text):
            yield Text(text, node.lineno, node.end_lineno or node.lineno)


def comments(source: str) -> Iterator[Text]:
    """Yield the comments of a module. Comments on consecutive lines are one text."""
    block: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if block and token.start[0] != block[-1][0] + 1:
                yield Text("\n".join(text for _, text in block), block[0][0], block[-1][0])
                block = []
            block.append((token.start[0], token.string.lstrip("#: ")))
    if block:
        yield Text("\n".join(text for _, text in block), block[0][0], block[-1][0])


def markdown(source: str) -> Iterator[Text]:
    """Yield the text of a Markdown file, with empty lines for code blocks and rows of figures."""
    lines: list[str] = []
    fenced = False
    for line in source.splitlines():
        fence = line.lstrip().startswith("```")
        fenced = fenced != fence
        lines.append("" if fence or fenced or line.startswith("    ") or _FIGURES.search(line) else line)
    yield Text("\n".join(lines), 1, len(lines))


def findings(path: Path) -> Iterator[str]:
    """Yield the lines to print for one file."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    texts = markdown(source) if path.suffix == ".md" else [*strings(source), *comments(source)]
    for text in texts:
        masked = _CODE.sub(lambda code: re.sub(r"\S", "x", code[0]), text.text)
        for pattern, say in _COMPILED:
            for found in pattern.finditer(masked):
                name = "found" if "found" in pattern.groupindex else 0
                line = text.first + masked.count("\n", 0, found.start(name))
                if not any("prose: ok" in lines[number - 1] for number in (line, text.last)):
                    yield f"{shown}:{line}: {' '.join(found[name].split())}: {say}"


def main() -> int:
    """Check the files. Return the exit code."""
    paths = [Path(name).resolve() for name in sys.argv[1:]]
    if not paths:
        paths = [path for folder in ("src", "tools") for path in sorted((ROOT / folder).rglob("*.py"))]
        paths += [path for name in MARKDOWN for path in sorted(ROOT.glob(name))]
        paths = [path for path in paths if not path.relative_to(ROOT).as_posix().startswith(SKIPPED)]
    found = [line for path in paths for line in findings(path)]
    print("\n".join(dict.fromkeys(found)), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
