"""Passwords of sites and proxies: used where they belong, and never shown."""

import base64
import os

import pytest
from tests.deploy.support.fault_server import Fault, serving
from tests.deploy.support.fetching import DATA, redirect, take
from tuf.api.exceptions import DownloadError, DownloadHTTPError

from edgecl_deploy.errors import OptionError
from edgecl_deploy.update.access import authorization, check_url, plain_url, proxy_of
from edgecl_deploy.update.fetcher import Fetcher

WORD = "se:cr/et"
BASIC = "Basic " + base64.b64encode(b"fleet:se:cr/et").decode()
IN_A_URL = "fleet:se%3Acr%2Fet"


@pytest.fixture
def netrc(tmp_path, monkeypatch):
    """Return a function that writes the file of passwords."""

    def write(text, mode=0o600):
        path = tmp_path / "netrc"
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(mode)
        monkeypatch.setenv("EDGECL_NETRC", str(path))
        return path

    return write


ENTRY = f"machine 127.0.0.1 login fleet password {WORD}\n"


def test_a_proxy_gets_the_password_of_the_environment(server, fetcher, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.replace("://", f"://{IN_A_URL}@"))
    assert take(fetcher, "http://channel.invalid/file") == DATA
    assert server.heads[0]["Proxy-Authorization"] == BASIC
    assert "Authorization" not in server.heads[0]


def test_a_proxy_gets_the_password_of_the_file(server, fetcher, monkeypatch, netrc):
    netrc(ENTRY)
    monkeypatch.setenv("http_proxy", server.url)
    take(fetcher, "http://channel.invalid/file")
    assert server.heads[0]["Proxy-Authorization"] == BASIC
    assert "Authorization" not in server.heads[0]


def test_a_tunnel_gets_the_password_and_the_site_does_not(fetcher, monkeypatch, server):
    heads = []

    def proxy(link, over):
        heads.append(link.recv(65536).decode())
        link.sendall(b"HTTP/1.1 407 No\r\n\r\n")

    from tests.deploy.update.fetcher.test_wire import listening

    with listening(proxy) as address:
        monkeypatch.setenv("https_proxy", f"http://{IN_A_URL}@{address}")
        with pytest.raises(DownloadError, match="Tunnel connection failed: 407") as caught:
            take(fetcher, "https://channel.invalid/file")
    assert f"Proxy-Authorization: {BASIC}\r\n" in heads[0]
    assert WORD not in str(caught.value)


def test_a_site_gets_the_password_of_the_file(server, fetcher, netrc):
    netrc(ENTRY)
    assert take(fetcher, f"{server.url}/file") == DATA
    assert server.heads[0]["Authorization"] == BASIC


def test_another_host_does_not(server, fetcher, netrc, monkeypatch):
    """Neither by a redirect, nor as the default."""
    netrc(ENTRY + "default login all password of-them\n")
    port = server.url.rpartition(":")[2]
    server.faults["/a"] = redirect(f"http://evil:pw@localhost:{port}/file")
    assert take(fetcher, f"{server.url}/a") == DATA
    assert [head.get("Authorization") for head in server.heads] == [BASIC, None]


def test_systemds_credentials_are_found(netrc, monkeypatch):
    path = netrc(ENTRY)
    monkeypatch.delenv("EDGECL_NETRC")
    assert authorization("http://127.0.0.1/x") == {}
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))
    assert authorization("http://127.0.0.1/x") == {"Authorization": BASIC}
    path.unlink()
    assert authorization("http://127.0.0.1/x") == {}


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o644, 0o666])
def test_a_file_that_others_may_read_is_not_used(server, fetcher, netrc, mode):
    netrc(ENTRY, mode)
    with pytest.raises(OptionError, match=f"the mode {mode:04o} at .*chmod 640"):
        take(fetcher, f"{server.url}/file")
    assert server.asked == []


@pytest.mark.parametrize("text", [f"{WORD}\n", f"machine a logn {WORD}\n", "machine\n"])
def test_an_error_of_the_file_repeats_nothing_of_it(netrc, text):
    netrc(text)
    with pytest.raises(OptionError, match="a file of another form") as caught:
        authorization("http://127.0.0.1/x")
    assert WORD not in str(caught.value)


def test_a_file_that_is_none(netrc, monkeypatch):
    path = netrc(ENTRY)
    path.unlink()
    with pytest.raises(OptionError, match="No such file"):
        authorization("http://127.0.0.1/x")
    os.mkfifo(path)
    path.chmod(0o600)
    with pytest.raises(OptionError, match="no plain, small file"):
        authorization("http://127.0.0.1/x")


@pytest.mark.parametrize("status", [401, 407])
def test_who_lacks_a_password_is_told_where_to_put_it(server, fetcher, status):
    server.faults["file"] = Fault(status=status)
    with pytest.raises(DownloadHTTPError, match=f"answered {status}: give its user and .*NETRC"):
        take(fetcher, f"{server.url}/file")


@pytest.mark.parametrize(
    "proxy",
    ["http://fleet:se/cret@proxy:3128", "http://fleet:se[cret@proxy", "://", "http://:80",
     "fleet:secret@:x"],
)  # fmt: skip
def test_a_proxy_that_is_none_is_not_repeated(server, fetcher, monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(DownloadError, match=r"http_proxy must be a URL such as") as caught:
        take(fetcher, "http://channel.invalid/file")
    assert "cret" not in repr(caught.value) + str(caught.value)


@pytest.mark.parametrize(
    ("given", "proxy", "headers"),
    [
        ("proxy:3128", "http://proxy:3128", {}),
        ("fleet:se%3Acr%2Fet@proxy", "http://proxy", {"Proxy-Authorization": BASIC}),
        ("https://[::1]:8", "https://[::1]:8", {}),
    ],
)
def test_forms_of_a_proxy(monkeypatch, given, proxy, headers):
    monkeypatch.setenv("http_proxy", given)
    assert proxy_of("http://channel.invalid/x") == (proxy, headers)


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("https://example.org/site", None),
        ("http://[::1]:80/site", None),
        ("/a/path?with=x#y", None),
        ("file:///a/b", None),
        ("https://u:p@example.org/site", "https://example.org/site"),
        ("https://u@example.org/site", "https://example.org/site"),
        ("https://example.org/site?token=p", "https://example.org/site"),
        ("https://example.org/site#p", "https://example.org/site"),
        ("https://u:p/q@example.org", "https://u:p/q@example.org"),  # a host u, a path
        ("https://u:p@[::1/x", "https://[::1/x"),
        (" HTTPS://u:p@example.org", " HTTPS://example.org"),
        ("ht\ntps://u:p@example.org", "ht\ntps://example.org"),
    ],
)
def test_a_url_has_no_secrets(url, plain):
    if plain is None or plain == url:
        check_url(url)
        return
    assert plain_url(url) == plain
    with pytest.raises(OptionError, match="Leave them out of the URL") as caught:
        check_url(url)
    assert "p@" not in str(caught.value)
    assert "token" not in str(caught.value)


def test_a_proxy_and_a_site_have_each_their_own(tmp_path_factory, server, part, netrc, monkeypatch):
    netrc("machine channel.invalid login site password one\n")
    with serving(server.folder) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("://", "://fleet:two@"))
        take(Fetcher(part), "http://channel.invalid/file")
    head = proxy.heads[0]
    assert base64.b64decode(head["Authorization"][6:]) == b"site:one"
    assert base64.b64decode(head["Proxy-Authorization"][6:]) == b"fleet:two"
