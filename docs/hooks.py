"""
Pages of the site that lie elsewhere in the repository, and links that leave docs/.

README.md is the site's first page; CONTRIBUTING.md and CHANGELOG.md are pages of it too. Links to files outside the
site (code, examples) become plain code.
"""

import ast
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Pages of the site, and the files at the top of the repository that they show."""
LINK = re.compile(r"\[([^\]]+)\]\((?!https?://|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


PACKAGES = ("toolkit", "experience", "mas", "learner")


def on_files(files: Files, config: Any) -> Files:
    """Add the reference: a page for `edgewise`, and one for each package, room by room."""
    files.append(File.generated(config, "reference/edgewise.md", content="\n".join(front())))
    for package in PACKAGES:
        content = "\n".join(reference(package))
        files.append(File.generated(config, f"reference/{package}.md", content=content))
    return files


def front() -> Iterator[str]:
    """The names that `import edgewise` offers, each with its documentation."""
    tree = ast.parse((ROOT / "edgewise" / "__init__.py").read_text("utf-8"))
    yield "# edgewise\n"
    yield ast.get_docstring(tree) or ""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").count(".") >= 2:
            # `improve` is the blocking twin of `aimprove`, which has the text.
            names = [name.name for name in node.names]
            yield from (f"\n::: {node.module}.{name}" for name in names if f"a{name}" not in names)


def reference(package: str) -> Iterator[str]:
    """A package's page: each room with its purpose, each of its files."""
    yield f"# {package}\n"
    folders = [ROOT / package, *sorted(path.parent for path in (ROOT / package).rglob("*/__init__.py"))]
    for folder in folders:
        name = ".".join(folder.relative_to(ROOT).parts)
        if folder != ROOT / package:
            yield f"\n## {name}\n"
        yield ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8"))) or ""
        for file in sorted(folder.glob("*.py")):
            if not file.stem.startswith("__"):
                yield f"\n::: edgewise.{name}.{file.stem}\n    options:\n      heading_level: 3"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the page's text, with links as the site needs them."""
    here = page.file.src_uri
    if here in ELSEWHERE:
        markdown = (ROOT / ELSEWHERE[here]).read_text("utf-8")
    # Where the text stands, seen from the top of the repository.
    folder = "" if here in ELSEWHERE else posixpath.dirname(f"docs/{here}")

    def relink(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        path = posixpath.normpath(posixpath.join(folder, target))
        shown = {file: name for name, file in ELSEWHERE.items()}.get(path)
        if path.rstrip("/") == "docs/decisions":
            shown = "decisions/index.md"
        elif path.rstrip("/") == "docs/results":
            shown = "results/experience.md"
        elif path.startswith("docs/") and path.endswith(".md"):
            shown = path.removeprefix("docs/")
        if not shown:
            return f"{text} (`{path}`)" if f"`{path}`" != text else text
        return f"[{text}]({posixpath.relpath(shown, posixpath.dirname(here) or '.')}{anchor})"

    return LINK.sub(relink, markdown)
