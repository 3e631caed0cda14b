"""What MkDocs does beside its own work: the site has the repository's other pages and figures too.

A page in `docs/` links to a study, a figure or CONTRIBUTING.md by its place in the repository, as every viewer of the
repository follows it. In the site these files keep their places below the root, where those of `docs/` stand; links
are rewritten to that. A link to a file that isn't part of the site stays as it is, and the strict build refuses it.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = "docs"
OUTSIDE = (
    "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "tests/README.md", "experiments/*/README.md",
    "results/README.md", "results/READING.md", "results/tables/parameter_counts.md", "results/*/figures/*.png",
    "benchmarks/figures/*.svg", "notebooks/*.ipynb",
)  # fmt: skip
LINK = re.compile(r"(\]\()([^)\s:]+)(\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside `docs/` that belong to the site."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            uri = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite a page's links from the repository's places to the site's."""
    inside = page.file.generated_by is None
    here = posixpath.dirname(posixpath.join(DOCS, page.file.src_uri) if inside else page.file.src_uri)
    return LINK.sub(lambda link: f"{link[1]}{_moved(link[2], here, inside)}{link[3]}", markdown)


def _moved(target: str, here: str, inside: bool) -> str:
    """The link `target` of a page in the repository's folder `here`, as the site has it."""
    path, mark, anchor = target.partition("#")
    if not path:
        return target
    place = posixpath.normpath(posixpath.join(here, path))
    place = "index.md" if place == "README.md" else place.removeprefix(f"{DOCS}/")
    start = here.removeprefix(DOCS).removeprefix("/") if inside else here
    return posixpath.relpath(place, start or ".") + mark + anchor
