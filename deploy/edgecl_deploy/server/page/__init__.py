"""The page of a server, for people: files that a browser gets as they are (docs/serve.md, "Page").

Laws: nothing on it comes from elsewhere, and it sends nothing elsewhere (the policy says so to the
browser, too); it holds no secret, so it needs no token; what it does, it does by the server's paths
that need one.
"""

from collections.abc import Mapping
from importlib import resources
from typing import TypeAlias

Page: TypeAlias = Mapping[str, tuple[bytes, str]]  # files by name, each with its type
TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
START = "index.html"
FILES = (START, "page.css", "page.js", "api.js", "camera.js", "icon.svg")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def read_page() -> Page:
    """Read the files of the page."""
    folder = resources.files(__name__)
    return {name: ((folder / name).read_bytes(), TYPES[name.rpartition(".")[2]]) for name in FILES}
