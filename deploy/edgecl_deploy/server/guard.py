"""Who may ask, and how much: hosts, tokens, bodies. It is checked before anything is read.

Laws: no token is compared in a time that depends on it; a page of a foreign site reaches nothing
but by a link, neither through a name that it controls (the header Host) nor by sending a form, a
frame or a picture (Origin, Sec-Fetch-Site); a body has a size and a time; no answer names a path of
the device.
"""

import asyncio
import hmac
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from edgecl_deploy.errors import OptionError, RequestError, shown
from edgecl_deploy.server.limits import BODY_SECONDS, LEAST_TOKEN, MAX_BODY

if TYPE_CHECKING:
    from starlette.requests import Request

    from edgecl_deploy.server.queue import Share

UNIX = "unix:"
_READS = ("GET", "HEAD")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?")
_TOKENS = "Write one line `read TOKEN`, to enrol `enrol TOKEN`, and for features `admin TOKEN`."
_NEWS = "Make one with `openssl rand -hex 32`."
_SIZE = f"a body must have at most {MAX_BODY} bytes"
_SMALLER = "Send fewer images, or smaller ones."


class Rights(IntEnum):
    """What a caller may do; each includes the ones before it."""

    NONE = 0
    READ = 1  # ask for answers, and see what the server does
    ENROL = 2  # give this device a class, and remove one
    ADMIN = 3  # features, from which an image can be made again


_WORDS = {each.name.lower(): each for each in Rights if each}  # of a file of tokens


@dataclass(frozen=True)
class Address:
    """Where a server listens: a host and a port, or a socket of the file system."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read `HOST:PORT` or `unix:PATH`.

        Raises:
            OptionError: It is neither.
        """
        if text.startswith(UNIX) and len(text) > len(UNIX):
            return cls(path=text[len(UNIX) :])
        host, _, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise OptionError(
                "--listen must be HOST:PORT or unix:PATH", shown(text), "Say 127.0.0.1:8080."
            )
        return cls(host, int(port))

    @property
    def open(self) -> bool:
        """Whether other machines may reach it."""
        if self.path:
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host != "localhost"

    def check(self, guarded: bool) -> None:
        """Refuse an address that other machines reach while anybody may ask.

        Args:
            guarded: Whether a token or a certificate is asked for.

        Raises:
            OptionError: It is one, and nothing is asked for.
        """
        if self.open and not guarded:
            raise OptionError(
                f"a server that other machines reach, at {self.host}, must ask for a token or a "
                "certificate",
                "neither --token-file nor --client-ca",
                "Give one of them, or listen on 127.0.0.1 or unix:PATH.",
            )


@dataclass(frozen=True)
class Tokens:
    """What callers must know.

    Attributes:
        of: Each token in UTF-8 with what it allows; none: whoever reaches the server may ask.
    """

    of: tuple[tuple[bytes, Rights], ...] = ()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Tokens":
        """Read a file of tokens.

        Raises:
            OptionError: It has none, one that is too short, or others may read it.
        """
        try:
            if os.stat(path).st_mode & (stat.S_IROTH | stat.S_IWOTH):
                raise OptionError(
                    f"only its user and group may read {os.fspath(path)}",
                    "permissions for others",
                    f"Run `chmod o= {os.fspath(path)}`.",
                )
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(
                "--token-file must be a readable text", shown(str(error)), _TOKENS
            ) from error
        found = []
        for line in lines:
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            word, _, token = line.strip().partition(" ")
            rights = _WORDS.get(word)
            if rights is None:
                raise OptionError(
                    f"a line of --token-file begins with {', '.join(_WORDS)}", "another", _TOKENS
                )
            if len(token) < LEAST_TOKEN or not token.isascii() or not token.isalnum():
                raise OptionError(
                    f"a token has {LEAST_TOKEN} or more letters and digits",
                    f"{len(token)} characters",
                    _NEWS,
                )
            found.append((token.encode(), rights))
        if not found:
            raise OptionError("--token-file must hold a token", "none", _TOKENS)
        return cls(tuple(found))

    def rights(self, header: str | None, otherwise: Rights) -> Rights:
        """Return what a caller may do.

        Args:
            header: Its Authorization.
            otherwise: What everyone may do.

        Raises:
            RequestError: It has a token that is none of these.
        """
        if header is None:
            return otherwise
        scheme, _, given = header.partition(" ")
        data = given.strip().encode("utf-8", "backslashreplace")
        best = Rights.NONE
        for token, rights in self.of:  # all of them: the time says nothing of the one that fits
            if hmac.compare_digest(token, data):
                best = max(best, rights)
        if scheme.lower() != "bearer" or best is Rights.NONE:
            if not self.of:
                return otherwise
            raise RequestError(401, "a request must have a token of this server", "another", "")
        return max(best, otherwise)


@dataclass(frozen=True)
class Guard:
    """What is asked of a caller.

    Attributes:
        tokens: Those of the server.
        trusted: Whether whoever reaches the server may ask: it is on this machine, or the
            connection has shown a certificate.
        hosts: Names that the header Host may have beside addresses; None for any.
        anyone: What whoever is trusted may do where there are no tokens.
    """

    tokens: Tokens = Tokens()
    trusted: bool = True
    hosts: frozenset[str] | None = field(default_factory=lambda: frozenset({"localhost"}))
    anyone: Rights = Rights.READ

    def rights(self, header: str | None) -> Rights:
        """Return what a caller may do.

        Args:
            header: Its Authorization.

        Raises:
            RequestError: It must show a token.
        """
        anyone = self.anyone if self.trusted and not self.tokens.of else Rights.NONE
        rights = self.tokens.rights(header, anyone)
        if rights is Rights.NONE:
            raise RequestError(
                401, "a request must have the header Authorization: Bearer TOKEN", "none", ""
            )
        return rights

    def check_host(self, header: str | None) -> None:
        """Refuse a name that somebody else's DNS may point here.

        Raises:
            RequestError: The header Host is neither an address nor a known name.
        """
        if self.hosts is None or (header is not None and self._known(header)):
            return
        raise RequestError(
            421,
            "the header Host must be an address, localhost or a name that was given with --host",
            "none" if header is None else shown(header),
            "Ask by the address, or start the server with `--host NAME`.",
        )

    def check_site(self, method: str, headers: Mapping[bytes, str], public: bool = False) -> None:
        """Refuse what a browser sends for a page of another site (Fetch, "Origin header").

        A link of another site may lead here; no frame, picture or script of it may.

        Args:
            method: Of the request.
            headers: Of the request, by name in small letters.
            public: Whether the path is there for everyone.

        Raises:
            RequestError: Another site asks, by what the browser says; other callers say nothing.
        """
        origin, host = headers.get(b"origin"), headers.get(b"host", "")
        own = origin is None or origin.partition("://")[2].lower() == host.lower()
        asks = headers.get(b"sec-fetch-site", "none")
        reads = method in _READS and (public or _is_link(headers))
        if not own or not (reads or asks in {"same-origin", "none"}):
            raise RequestError(
                403,
                "a browser must ask for a page of this server",
                f"one of another site, {shown(origin or asks)}",
                "A proxy passes on the header Host as the browser has it.",
            )

    def _known(self, header: str) -> bool:
        found = _HOST.fullmatch(header)
        name = "" if found is None else (found[1] or found[2])
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return self.hosts is not None and name.lower().rstrip(".") in self.hosts
        return True


def _is_link(headers: Mapping[bytes, str]) -> bool:
    """Return whether a browser shows the answer in a window of its own (Fetch Metadata)."""
    mode, where = headers.get(b"sec-fetch-mode"), headers.get(b"sec-fetch-dest", "document")
    return mode == "navigate" and where == "document"


def names(address: Address, given: Iterable[str]) -> frozenset[str] | None:
    """Return the names that the header Host may have; None for any.

    Args:
        address: Where the server listens. No page of a browser reaches a socket of the file system.
        given: Those of the command line.
    """
    if address.path:
        return None
    own = {"localhost", socket.gethostname(), address.host, *given}
    return frozenset(each.lower().rstrip(".") for each in own)


async def read_body(request: "Request", held: "Share") -> bytes:
    """Return the body of a request.

    Args:
        request: Its headers have come.
        held: The bytes that it takes.

    Raises:
        RequestError: It is too large, too slow, or there is no room for it.
    """
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length[:12]) > MAX_BODY:
        raise RequestError(413, _SIZE, f"{length[:12]} bytes", _SMALLER)

    async def whole() -> bytes:
        parts = []
        async for part in request.stream():
            if held.count + len(part) > MAX_BODY:
                raise RequestError(413, _SIZE, "more", _SMALLER)
            held.grow(len(part))
            parts.append(part)
        return b"".join(parts)

    try:
        return await asyncio.wait_for(whole(), BODY_SECONDS)
    except asyncio.TimeoutError as error:
        raise RequestError(
            408,
            f"a body must come within {BODY_SECONDS:g} seconds",
            f"{held.count} bytes of it",
            _SMALLER,
        ) from error
