"""Where a fetcher reads from: folders, proxies, TLS."""

import datetime
import ipaddress
import os
import ssl
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.deploy.support.fault_server import Fault, serving
from tests.deploy.support.fetching import DATA, DEADLINE, LARGE, RESUMED, redirect, take
from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    RepositoryError,
    SlowRetrievalError,
)

from edgecl_deploy import errors
from edgecl_deploy.format import digest
from edgecl_deploy.update.fetcher import Fetcher, local_path

# -- folders --------------------------------------------------------------------------------------


@pytest.fixture
def stick(tmp_path):
    folder = tmp_path / "my stick"
    (folder / "targets").mkdir(parents=True)
    (folder / "file").write_bytes(DATA)
    (folder / RESUMED[1:]).write_bytes(LARGE)
    return folder


@pytest.fixture
def local(part, stick):
    return Fetcher(part, folder=stick)


@pytest.mark.parametrize("form", ["path", "url"])
def test_a_folder_is_read(local, stick, part, form):
    base = str(stick) if form == "path" else stick.as_uri()
    assert take(local, f"{base}/file") == DATA
    assert take(local, base + RESUMED, len(LARGE)) == LARGE
    assert local.received == len(DATA) + len(LARGE)
    assert not list(part.iterdir())


def test_a_missing_file_is_a_404(local, stick):
    for name in ("none", "file/none"):
        with pytest.raises(DownloadHTTPError) as caught:
            take(local, f"{stick}/{name}")
        assert caught.value.status_code == 404


def test_links_lead_nowhere_else(local, stick, tmp_path):
    (stick / "inside").symlink_to("file")
    assert take(local, f"{stick}/inside") == DATA
    (tmp_path / "secret").write_bytes(b"secret")
    (stick / "outside").symlink_to(tmp_path / "secret")
    (stick / "up").symlink_to(tmp_path)
    for name in ("outside", "up/secret", "../secret"):
        with pytest.raises(RepositoryError, match="is outside"):
            take(local, f"{stick}/{name}")
    (stick / "loop").symlink_to("loop")
    with pytest.raises(DownloadError):
        take(local, f"{stick}/loop")


def test_only_plain_files_are_read(local, stick):
    os.mkfifo(stick / "pipe")
    for name in ("pipe", "targets"):
        with pytest.raises(RepositoryError, match="no plain file"):
            take(local, f"{stick}/{name}")


def test_a_channel_on_the_web_opens_no_file(fetcher, stick):
    with pytest.raises(RepositoryError, match="is outside"):
        take(fetcher, f"{stick}/file")


def test_a_folder_goes_on_too_and_has_a_deadline(stick, part, local):
    partial = part / digest((str(stick) + RESUMED).encode())
    partial.write_bytes(LARGE[:4_000_000])
    assert take(local, str(stick) + RESUMED, len(LARGE)) == LARGE
    assert local.received == 1_000_000
    slow = Fetcher(part, folder=stick, deadline=0.0)
    with pytest.raises(SlowRetrievalError):
        take(slow, f"{stick}/file")


@pytest.mark.parametrize("url", ["ftp://x/y", "file://host/x", "http://", "s3://bucket"])
def test_other_urls_are_refused(url):
    with pytest.raises(errors.OptionError, match=r"Correct the URL in the store's config\.json"):
        local_path(url)


# -- the way there --------------------------------------------------------------------------------


def test_a_proxy_of_the_environment_is_used(server, fetcher, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert take(fetcher, "http://channel.invalid/file") == DATA
    assert server.heads[0]["Host"] == "channel.invalid"
    assert take(fetcher, f"{server.url}/file") == DATA
    assert server.heads[1]["Host"] != "channel.invalid"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509
        .CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder


@pytest.fixture
def secure(authority, served):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "certificate.pem", authority / "key.pem")
    with serving(served.folder, context) as server:
        yield server


def test_tls_trusts_what_the_system_trusts(secure, authority, part, monkeypatch):
    with pytest.raises(DownloadError, match="CERTIFICATE_VERIFY_FAILED"):
        take(Fetcher(part), f"{secure.url}/file")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority / "certificate.pem"))
    assert take(Fetcher(part), f"{secure.url}/file") == DATA
    assert take(Fetcher(part), secure.url + RESUMED, len(LARGE)) == LARGE


def test_tls_has_the_same_deadline(secure, authority, part, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(authority / "certificate.pem"))
    secure.faults["file"] = Fault(slow_head=0.05)
    begin = time.monotonic()
    with pytest.raises(SlowRetrievalError):
        take(Fetcher(part, deadline=DEADLINE), f"{secure.url}/file")
    assert time.monotonic() - begin < DEADLINE + 1


def test_tls_is_not_left_by_a_redirect(secure, server, authority, part, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(authority / "certificate.pem"))
    secure.faults["/a"] = redirect(f"{server.url}/file")
    with pytest.raises(DownloadError, match="redirected from https to 'http'"):
        take(Fetcher(part), f"{secure.url}/a")
