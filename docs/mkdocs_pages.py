"""MkDocs hook: the site has the repository's Markdown pages at their own paths, so that relative links work in both."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGES = ("*.md", "docs/**/*.md", "custom/**/README.md", "assets/**/*.md", "tests/golden/**/README.md")
LINKED = ("docs/images/*.svg", "docs/images/*.webp", "docs/images/*.jpg", "assets/priors/**/*.jpg", "LICENSE")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of the theme, and those of the repository in place of those of `docs_dir`."""
    root = Path(config.config_file_path).parent
    found = sorted(path for pattern in (*PAGES, *LINKED) for path in root.glob(pattern))
    pages = [File.generated(config, path.relative_to(root).as_posix(), abs_src_path=str(path)) for path in found]
    return Files([file for file in files if file.src_dir != config.docs_dir] + pages)
