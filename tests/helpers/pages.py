"""HTML pages parsed, and what holds for all of them."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

LIMIT = 10_000_000  # bytes of a page


class Page(HTMLParser):
    """A parsed page: tags with attributes, visible text, addresses."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.hidden, self.texts = "", list[str]()
        self.feed(path.read_text())
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self.hidden = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self.hidden = ""

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.texts.append(data)

    def addresses(self) -> list[tuple[str, str]]:
        return [
            (tag, own[name]) for tag, own in self.tags for name in ("src", "href", "poster", "data") if own.get(name)
        ]

    def count(self, tag: str) -> int:
        return sum(each == tag for each, _ in self.tags)


def check_is_offline(page: Page, folder: Path) -> None:
    for tag, address in page.addresses():
        if tag == "a":
            assert address.startswith("#") or (folder / unquote(address)).is_file(), address
        else:
            assert address.startswith("data:"), address
    anchors = {own["id"] for _, own in page.tags if "id" in own}
    assert {address[1:] for tag, address in page.addresses() if address.startswith("#")} <= anchors
    policy = next(own["content"] for _, own in page.tags if own.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "http" not in policy
