"""Who may reach a channel: its URL without secrets, passwords of sites and proxies, the proxy.

Laws: a password is never part of a URL that is stored, shown or logged; it comes from a file for
the host that it was given for, or, for a proxy, from the environment; no error repeats it.
"""

import base64
import netrc
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from edgecl_deploy.errors import OptionError

VARIABLE = "EDGECL_NETRC"  # names the file of passwords
_SYSTEMD = "CREDENTIALS_DIRECTORY"  # of `LoadCredential=netrc:...`
_LARGEST = 64 * 1024  # bytes of the file
HINT = f"give its user and password in the file that {VARIABLE} names"


def check_url(url: str) -> None:
    """Check that a channel's URL holds no secret: it is stored, shown and logged.

    Raises:
        OptionError: It has a user, a password, a query or a fragment.
    """
    if plain_url(url) != url:
        raise OptionError(
            "the URL of a channel must have no user, password, query or fragment",
            f"one with more than {plain_url(url)}",
            f"Leave them out of the URL; {HINT} (docs/operate.md, Passwords).",
        )


def plain_url(url: str) -> str:
    """Return a URL without user, password, query and fragment; a path as it is."""
    scheme, colon, rest = url.partition("://")
    if "".join(filter(str.isalnum, scheme)).lower() not in {"http", "https"}:
        return url
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}{colon}{host.rpartition('@')[2]}{slash}{path}"


def proxy_of(url: str) -> tuple[str, dict[str, str]] | None:
    """Return the proxy for a URL by the environment, and the headers that it wants; None for none.

    Raises:
        ValueError: The environment names no proxy that can be used.
    """
    parts = urlsplit(url)
    given = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    if not given:
        return None
    try:
        proxy = urlsplit(given if "://" in given else f"http://{given}")
        port, host = proxy.port, proxy.hostname
    except ValueError:
        host, port = None, None
    if not host:  # the text may hold a password: none of it is repeated
        raise ValueError(f"{parts.scheme}_proxy must be a URL such as http://proxy:3128")
    own = (unquote(proxy.username), unquote(proxy.password or "")) if proxy.username else None
    return _without_user(proxy, port), _basic("Proxy-Authorization", own or _passwords().get(host))


def _without_user(proxy: SplitResult, port: int | None) -> str:
    host = f"[{proxy.hostname}]" if ":" in (proxy.hostname or "") else proxy.hostname
    return f"{proxy.scheme}://{host}" + ("" if port is None else f":{port}")


def authorization(url: str) -> dict[str, str]:
    """Return the header that the host of a URL wants, if the file has a password for it."""
    return _basic("Authorization", _passwords().get(urlsplit(url).hostname or ""))


def _basic(name: str, given: tuple[str, str] | None) -> dict[str, str]:
    if given is None:
        return {}
    return {name: "Basic " + base64.b64encode(":".join(given).encode()).decode()}


def _passwords() -> Mapping[str, tuple[str, str]]:
    """Read user and password by host; there is no default for other hosts.

    Raises:
        OptionError: The file cannot be read, or others may read it.
    """
    path = _file()
    if path is None:
        return {}
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(handle):
            wrong = _unsafe(os.fstat(handle))
            hosts = {} if wrong else netrc.netrc(path).hosts
    except OSError as error:
        wrong, hosts = str(error.strerror), {}
    except (netrc.NetrcParseError, ValueError):  # its text may repeat a password
        wrong, hosts = "a file of another form", {}
    if wrong:
        raise OptionError(
            f"the file of {VARIABLE} must be a netrc file that only its owner and group may read",
            f"{wrong} at {path}",
            "Write `machine HOST login USER password PASSWORD`, and run `chmod 640` on it.",
        )
    return {
        host.lower(): (login, password or "")
        for host, (login, _, password) in hosts.items()
        if host != "default"
    }


def _file() -> Path | None:
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    folder = os.environ.get(_SYSTEMD)
    path = Path(folder, "netrc") if folder else None
    return path if path is not None and path.is_file() else None


def _unsafe(found: os.stat_result) -> str | None:
    """Return why a file must not be used for passwords; None if it may."""
    if not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST:
        return "no plain, small file"
    if found.st_mode & 0o027:
        return f"the mode {stat.S_IMODE(found.st_mode):04o}"
    return None
