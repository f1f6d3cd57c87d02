"""The reports on a release on trial, and how they are judged."""

import pytest

from edgecl_deploy.manifest.whole import TEMPORARY
from edgecl_deploy.store.health import (
    APPLICATION,
    DEVICE,
    RELEASE,
    Fault,
    Report,
    Reporter,
    judge,
    read_reports,
)
from edgecl_deploy.store.layout import (
    HEALTH,
)
from edgecl_deploy.store.records import (
    Limits,
)


def silent(text):
    return Fault(f"{text}: is the application running?", APPLICATION)


@pytest.mark.parametrize(
    ("reports", "limits", "over", "wrong"),
    [
        ([], Limits(), False, None),
        ([], Limits(), True, None),
        ([], Limits(trial_requests=1), False, None),
        ([], Limits(trial_requests=1), True, silent("0 images in 10 s; 1 must come")),
        ([Report(1, 5), Report(1, 5)], Limits(trial_requests=10), True, None),
        ([Report(1, 9)], Limits(trial_requests=10), True, silent("9 images in 10 s; 10 must come")),
        ([Report(1, 10, 1)], Limits(), False, Fault("1 of 10 images got no answer; 0 may")),
        ([Report(1, 10, 1)], Limits(trial_failures=0.1), True, None),
        (
            [Report(1, 19, 2)],
            Limits(trial_failures=0.1),
            True,
            Fault("2 of 19 images got no answer; 1 may"),
        ),
        ([Report(1), Report(1, error="no engine")], Limits(), False, Fault("no engine")),
        ([Report(1, error="rot", whose=DEVICE)], Limits(), False, Fault("rot", DEVICE)),
        (
            [Report(1, error="rot", whose=DEVICE), Report(1, error="blind")],
            Limits(),
            False,
            Fault("blind", RELEASE),
        ),
    ],
)
def test_a_release_on_trial_is_judged(reports, limits, over, wrong):
    assert judge(reports, limits, over) == wrong


def test_reports_are_read_by_generation(store):
    one, two = Reporter(store.path), Reporter(store.path)
    one.write(Report(1, 3))
    two.write(Report(2, 4))
    two.write(Report(2, 5, 1, "ümlaut\x1b[2J" + "x" * 1000))
    (store.path / HEALTH / "foreign.json").write_bytes(b"[]")
    (store.path / HEALTH / "long.json").write_bytes(b" " * 70_000)
    (store.path / HEALTH / "link.json").symlink_to("/dev/zero")
    (store.path / HEALTH / f"{TEMPORARY}half").write_bytes(b'{"generation": 1')
    assert read_reports(store.path, 1) == [Report(1, 3)]
    (found,) = read_reports(store.path, 2)
    assert (found.images, found.failed) == (5, 1)
    assert found.error.startswith("\\xfcmlaut\\x1b[2Jxxx")
    assert len(found.error) == 300
    two.close()
    assert read_reports(store.path, 2) == []


def test_a_report_that_cannot_be_written_changes_nothing(store):
    (store.path / HEALTH).rmdir()
    reporter = Reporter(store.path)
    reporter.write(Report(1))
    reporter.close()
    assert read_reports(store.path, 1) == []
