"""Which protocol fits which stream, and what becomes of it in a run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecl.backbones import Backbone, Clip
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.learning.learner import Learner
from edgecl.learning.summary import Summary
from edgecl.report._words import protocol_words
from edgecl.session import learn_folder, learn_stream, new_learner, sum_up
from edgecl.streams import STREAM_PROTOCOLS, Stream
from edgecl.streams.protocols import PROTOCOLS, ProtocolError, declare, load_as

MakeFolders = Callable[..., Path]
MakeLearner = Callable[..., Learner]
MakeStream = Callable[..., Stream]
OWN = {f"task_{hue // 2:02d}/hue-{hue}": hue for hue in range(4)}
SAME = {f"task_{task:02d}/hue-{hue}": hue for task in range(2) for hue in range(2)}


def test_without_a_protocol_it_is_the_stream_s(make_stream: MakeStream) -> None:
    assert declare(make_stream()) == "cil"


@pytest.mark.parametrize("protocol", ["cil", "mtil"])
def test_own_classes_fit_cil_and_mtil(make_folders: MakeFolders, protocol: str) -> None:
    stream = load_as(str(make_folders(OWN)), protocol)
    assert stream.protocol == "cil"
    assert declare(stream, protocol) == protocol


def test_a_stream_of_several_forms_is_built_as_asked(make_folders: MakeFolders) -> None:
    assert load_as(str(make_folders(SAME)), "dil").protocol == "dil"


@pytest.mark.parametrize(
    ("protocol", "asks"),
    [
        ("dil", "the same classes in every task; emoji-demo is cil, 6 tasks with 60 classes"),
        ("dcil", "a sequence of domains and classes"),
    ],
)
def test_a_stream_of_one_form_is_held_to_the_protocol(protocol: str, asks: str) -> None:
    with pytest.raises(ProtocolError, match=asks):
        load_as("emoji-demo", protocol)


@pytest.mark.parametrize("protocol", ["cil", "mtil"])
def test_shared_classes_fit_neither_cil_nor_mtil(make_folders: MakeFolders, protocol: str) -> None:
    stream = load_as(str(make_folders(SAME)), "dil")
    with pytest.raises(ProtocolError, match="choose another stream"):
        declare(stream, protocol)


def test_mtil_needs_two_tasks() -> None:
    with pytest.raises(ProtocolError, match="two tasks at least"):
        load_as("emoji-demo", "mtil", tasks=1)


def test_a_method_that_reads_names_gives_the_figures_of_mtil(
    tmp_path: Path, tiny_clip: Clip, make_folders: MakeFolders
) -> None:
    stream = load_as(str(make_folders(OWN)), "mtil")
    cache = FeatureCache(None, "")
    known = {"protocol": "mtil", "cache": cache}
    learner = new_learner(tmp_path / "run", "zero-shot", tiny_clip, stream, **known)
    summary = learn_stream(learner, stream)
    assert summary.protocol == "mtil"
    figures = summary.mtil
    assert figures is not None
    assert figures.matrix[0] == figures.matrix[1]  # nothing is learned
    assert figures.transfer == figures.tasks.last[1]
    assert summary.ci_transfer is not None
    assert len(summary.ci_transfer.stages) == 1
    xtail = summary.xtail
    assert xtail is not None
    assert (xtail.oracle, xtail.matrix) == ("none", summary.ci_transfer.matrix)
    assert xtail.last == sum(xtail.matrix[-1]) / 2
    assert [name for name, _, _ in summary.by_name()][3:6] == [
        f"X-TAIL {name}" for name in ("Transfer", "Avg", "Last")
    ]
    record = learn_folder(learner, make_folders({"hue-7": 3}, root="more"))
    assert record.classes == ("hue-7",)
    again = Summary.from_json(json.loads((tmp_path / "run" / "metrics.json").read_text()))
    assert (again.mtil, again.xtail) == (figures, xtail)
    assert again.not_evaluated == ("more",)


def test_mtil_needs_a_method_that_reads_names(
    tmp_path: Path, tiny_backbone: Backbone, make_stream: MakeStream
) -> None:
    with pytest.raises(ProtocolError, match="Choose a vision-language method"):
        new_learner(tmp_path / "run", "simplecil", tiny_backbone, make_stream(), protocol="mtil")
    assert not (tmp_path / "run").exists()


def test_an_unknown_protocol_names_all() -> None:
    with pytest.raises(
        ProtocolError, match=r"one of cil, dil, dcil, mtil, online, got 'til'.*Leave it"
    ):
        load_as("emoji-demo", "til")


def test_the_table_says_what_every_protocol_needs_and_evaluates() -> None:
    assert list(PROTOCOLS) == [*STREAM_PROTOCOLS, "mtil", "online"]
    page = (Path(__file__).parents[3] / "docs" / "streams.md").read_text(encoding="utf-8")
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
        assert protocol.of_stream == name or name not in STREAM_PROTOCOLS
        assert protocol_words(name) == (protocol.title, protocol.evaluates)
        assert f"| `{name}` |" in page


def with_lists(learner: Learner, change: Callable[[list[list[float]]], None]) -> Summary:
    """Sum up after `change`d lists were written into the tasks' evaluations."""
    count = len(learner.run)
    lists = [[0.1 * (t + i) for i in range(count)] for t in range(count)]
    change(lists)
    for task in range(count):
        file = learner.run.path / "tasks" / f"{task:03d}" / "evaluation.json"
        found = json.loads(file.read_text())
        file.write_text(json.dumps({**found, "oracle": lists[task], "open": lists[task]}))
    summary = sum_up(learner.run)
    assert summary is not None
    return summary


def test_a_run_shows_the_figures_of_whole_evaluations(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream()
    learner = make_learner("simplecil", stream)
    assert learn_stream(learner, stream).mtil is None
    learner.run.header["protocol"] = "mtil"
    summary = with_lists(learner, lambda lists: None)
    assert summary.protocol == "mtil"
    assert summary.mtil is not None
    assert summary.mtil.last == pytest.approx(0.3)
    assert summary.ci_transfer is not None
    assert summary.ci_transfer.stages == pytest.approx((0.15, 0.3))
    page = (learner.run.path / "report.html").read_text()
    assert "multi-domain task-incremental (MTIL)" in page
    for words in ("Transfer", "Avg", "Last", "CI-Transfer", "label set of the image's task"):
        assert words in page


def test_an_evaluation_that_is_not_whole_is_not_shown(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream()
    learner = make_learner("simplecil", stream)
    learn_stream(learner, stream)
    summary = with_lists(learner, lambda lists: lists[0].append(0.5))
    assert summary.mtil is summary.ci_transfer is None
    assert "By name" not in (learner.run.path / "report.html").read_text()
