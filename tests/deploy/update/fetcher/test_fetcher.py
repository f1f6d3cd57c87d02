"""The fetcher against a server that misbehaves: bounded in time, length and memory; resumable."""

import email.utils
import gzip
import time
import tracemalloc

import pytest
from tests.deploy.support.fault_server import Fault
from tests.deploy.support.fetching import CUTS, DATA, DEADLINE, LARGE, RESUMED, redirect, take
from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    LengthOrHashMismatchError,
    RepositoryError,
    SlowRetrievalError,
)

from edgecl_deploy import __version__
from edgecl_deploy.update import fetcher as fetcher_module
from edgecl_deploy.update.fetcher import Fetcher


def test_a_file_arrives_and_is_counted(server, fetcher):
    assert take(fetcher, f"{server.url}/file") == DATA
    assert (fetcher.received, fetcher.requests) == (len(DATA), 1)
    assert server.heads[0]["User-Agent"] == f"edgecl-device/{__version__}"
    assert server.heads[0]["Accept-Encoding"] == "identity"
    assert "Range" not in server.heads[0]


def test_the_plain_interface_works_too(server, fetcher):
    assert b"".join(fetcher.fetch(f"{server.url}/file")) == DATA
    assert fetcher.download_bytes(f"{server.url}/file", len(DATA)) == DATA


def test_one_connection_serves_many_files_and_missing_ones(server, fetcher):
    for _ in range(3):
        take(fetcher, f"{server.url}/file")
        with pytest.raises(DownloadHTTPError):
            take(fetcher, f"{server.url}/none")
    assert server.connections == 1


def test_no_temporary_folder_of_the_system_is_used(server, fetcher, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent")
    assert take(fetcher, f"{server.url}/file") == DATA
    assert take(fetcher, server.url + RESUMED, len(LARGE)) == LARGE


@pytest.mark.parametrize("status", [204, 206, 304, 403, 404, 500, 503])
def test_any_other_answer_is_an_http_error(server, fetcher, status):
    content = b"" if status in {204, 304} else b"x"
    server.faults["file"] = Fault(status=status, content=content)
    with pytest.raises(DownloadHTTPError, match=f"answered {status}") as caught:
        take(fetcher, f"{server.url}/file")
    assert caught.value.status_code == status
    assert fetcher.retry_after is None


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("120", 120, 120),
        ("in ten minutes", 500, 601),
        ("99999999999", 4 * 3600, 4 * 3600),
        ("9" * 5000, 4 * 3600, 4 * 3600),
    ],
)
def test_a_wish_to_be_left_alone_is_noticed_and_bounded(server, fetcher, header, low, high):
    if header == "in ten minutes":  # a date, counted from this test's start
        header = email.utils.formatdate(time.time() + 600, usegmt=True)
    server.faults["file"] = Fault(status=503, headers={"Retry-After": header})
    with pytest.raises(DownloadHTTPError):
        take(fetcher, f"{server.url}/file")
    assert low <= fetcher.retry_after <= high


@pytest.mark.parametrize("header", ["soon", "-5", "Mon, 99 Foo 2026"])
def test_a_senseless_wish_is_ignored(server, fetcher, header):
    server.faults["file"] = Fault(status=503, headers={"Retry-After": header})
    with pytest.raises(DownloadHTTPError):
        take(fetcher, f"{server.url}/file")
    assert fetcher.retry_after is None


# -- redirects ------------------------------------------------------------------------------------


def test_two_redirects_are_followed(server, fetcher):
    server.faults = {"/a": redirect("b"), "/b": redirect(f"{server.url}/file")}
    assert take(fetcher, f"{server.url}/a") == DATA
    assert fetcher.requests == 3


def test_a_redirect_loop_is_refused(server, fetcher):
    server.faults["/a"] = redirect("/a")
    with pytest.raises(DownloadError, match="more than 2 redirects"):
        take(fetcher, f"{server.url}/a")
    assert fetcher.requests == 3


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://[", "http:///x"]
)
def test_a_redirect_leads_only_to_the_web(server, fetcher, location):
    server.faults["/a"] = redirect(location)
    with pytest.raises(DownloadError):
        take(fetcher, f"{server.url}/a")
    assert fetcher.requests <= 2


def test_the_body_of_a_redirect_is_not_read(server, fetcher):
    server.faults["/a"] = Fault(
        status=302, headers={"Location": "/file"}, content=bytes(1 << 20), endless=True
    )
    assert take(fetcher, f"{server.url}/a") == DATA


# -- length ---------------------------------------------------------------------------------------


def test_one_byte_too_much_is_refused(server, fetcher):
    with pytest.raises(DownloadLengthMismatchError, match="longer than 299999 bytes"):
        take(fetcher, f"{server.url}/file", len(DATA) - 1)


@pytest.mark.parametrize("path", ["/file", RESUMED], ids=["metadata", "target"])
def test_an_endless_body_ends_at_the_length(server, fetcher, part, path):
    server.faults[path] = Fault(content=bytes(10_000), endless=True)
    with pytest.raises(DownloadLengthMismatchError):
        take(fetcher, server.url + path, 100_000)
    assert fetcher.received <= 100_000 + 64 * 1024
    assert not list(part.iterdir())


@pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, identity"])
def test_an_encoded_body_is_refused_unread(server, fetcher, encoding):
    bomb = gzip.compress(bytes(50_000_000))
    server.faults["file"] = Fault(content=bomb, headers={"Content-Encoding": encoding})
    tracemalloc.start()
    try:
        with pytest.raises(RepositoryError, match="came encoded as"):
            take(fetcher, f"{server.url}/file")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert fetcher.received == 0
    assert peak < 4_000_000


@pytest.mark.parametrize("endless", [False, True], ids=["length", "chunked"])
def test_a_cut_connection_is_no_short_file(server, fetcher, endless):
    server.faults["file"] = Fault(cut=20_000, endless=endless, times=1)
    if endless:
        server.closing.set()  # one round, and no last chunk
    try:
        with pytest.raises(DownloadError, match="IncompleteRead"):
            take(fetcher, f"{server.url}/file")
    finally:
        server.closing.clear()


# -- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault(piece=1, pause=0.05),
        Fault(content=b"x", endless=True, piece=1, pause=0.05),
        Fault(slow_head=0.05),
        Fault(cut=1, headers={"Content-Length": "9"}, piece=1, pause=30),
        Fault(status=404, content=bytes(1000), piece=1, pause=0.05),
    ],
    ids=["drip", "chunked drip", "dripping head", "silence", "dripping error"],
)
def test_a_slow_server_is_left_at_the_deadline(server, part, fault):
    server.faults["file"] = fault
    fetcher = Fetcher(part, deadline=DEADLINE)
    begin = time.monotonic()
    with pytest.raises(SlowRetrievalError):
        take(fetcher, f"{server.url}/file")
    assert DEADLINE - 0.1 < time.monotonic() - begin < DEADLINE + 1


def test_silence_ends_before_the_deadline(server, part):
    server.faults["file"] = Fault(piece=100_000, pause=5)
    begin = time.monotonic()
    with pytest.raises(SlowRetrievalError, match="timed out"):
        take(Fetcher(part, silence=0.3), f"{server.url}/file")
    assert time.monotonic() - begin < 2


def test_a_file_of_metadata_has_a_shorter_deadline(server, fetcher, monkeypatch):
    monkeypatch.setattr(fetcher_module, "_BRIEF", 0.3)
    server.faults["file"] = Fault(piece=1, pause=0.05)
    with pytest.raises(SlowRetrievalError):
        take(fetcher, f"{server.url}/file")


def test_below_the_lowest_rate_it_ends(server, part, monkeypatch):
    monkeypatch.setattr(fetcher_module, "_WINDOW", 0.3)
    server.faults["file"] = Fault(piece=1000, pause=0.05)  # at most 20 kB/s
    with pytest.raises(SlowRetrievalError, match=r"only \d+ bytes came"):
        take(Fetcher(part, slowest_kbps=100), f"{server.url}/file")
    server.faults["file"] = Fault(content=DATA[:30_000], piece=1000, pause=0.02)
    assert take(Fetcher(part, slowest_kbps=1), f"{server.url}/file") == DATA[:30_000]


def test_the_highest_rate_is_kept(server, part):
    begin = time.monotonic()
    assert take(Fetcher(part, rate_kbps=500), f"{server.url}/file") == DATA
    assert 0.5 < time.monotonic() - begin < 3


def test_no_server_is_a_download_error(fetcher):
    with pytest.raises(DownloadError, match="refused"):
        take(fetcher, "http://127.0.0.1:9/file")


# -- resume ---------------------------------------------------------------------------------------


def cut(server, fetcher, after):
    server.faults[RESUMED] = Fault(cut=after, times=1)
    with pytest.raises(DownloadError):
        take(fetcher, server.url + RESUMED, len(LARGE))


def test_a_cut_download_goes_on_where_it_ended(server, part):
    missing = again = 0
    for after in CUTS:
        server.reset()
        cut(server, Fetcher(part), after)
        (partial,) = part.iterdir()
        missing += len(LARGE) - partial.stat().st_size
        server.reset()
        fetcher = Fetcher(part)  # as in another process
        assert take(fetcher, server.url + RESUMED, len(LARGE)) == LARGE
        assert fetcher.resumed
        assert fetcher.received == server.body_bytes
        again += server.body_bytes
        assert not list(part.iterdir())
    assert again <= 1.05 * missing


@pytest.mark.parametrize(
    ("fault", "requests"),
    [
        (Fault(ranges=False), 1),
        (Fault(status=416, times=1), 2),
        (Fault(wrong_range=True, times=1), 2),
    ],
    ids=["ignored", "416", "another range"],
)
def test_a_server_without_ranges_still_works(server, fetcher, fault, requests):
    cut(server, fetcher, 2_000_000)
    server.reset()
    server.faults[RESUMED] = fault
    fetcher.requests = 0
    assert take(fetcher, server.url + RESUMED, len(LARGE)) == LARGE
    assert fetcher.requests == requests
    assert not fetcher.resumed


def test_metadata_is_never_resumed(server, fetcher, part):
    server.faults["file"] = Fault(cut=1000, times=1)
    with pytest.raises(DownloadError):
        take(fetcher, f"{server.url}/file")
    assert not list(part.iterdir())
    assert take(fetcher, f"{server.url}/file") == DATA


def test_a_whole_partial_is_not_fetched_again(server, fetcher, part):
    with (
        pytest.raises(OSError, match="full"),
        fetcher.download_file(server.url + RESUMED, len(LARGE)),
    ):
        raise OSError("the disk is full")
    server.reset()
    assert take(fetcher, server.url + RESUMED, len(LARGE)) == LARGE
    assert server.asked == []
    assert not list(part.iterdir())


def test_a_partial_that_is_too_long_is_dropped(server, fetcher):
    cut(server, fetcher, 2_000_000)
    server.faults[RESUMED] = Fault(content=b"short")
    assert take(fetcher, server.url + RESUMED, 5) == b"short"
    assert not fetcher.resumed


def test_a_partial_is_removed_when_verification_fails(server, fetcher, part):
    with (
        pytest.raises(LengthOrHashMismatchError),
        fetcher.download_file(server.url + RESUMED, len(LARGE)),
    ):
        raise LengthOrHashMismatchError
    assert not list(part.iterdir())


def test_a_partial_is_kept_for_a_week(server, fetcher, part):
    cut(server, fetcher, 1000)
    (partial,) = part.iterdir()
    fetcher.sweep(time.time() + 6.9 * 86400)
    assert partial.exists()
    fetcher.sweep(time.time() + 7.1 * 86400)
    assert not partial.exists()


def test_a_partial_is_no_link(server, fetcher, part, tmp_path):
    cut(server, fetcher, 1000)
    (partial,) = part.iterdir()
    partial.unlink()
    (tmp_path / "mine").write_bytes(b"")
    partial.symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic links"):
        take(fetcher, server.url + RESUMED, len(LARGE))
    assert (tmp_path / "mine").read_bytes() == b""
