"""Templates of each task: checked, stored in the run, and what a CLIP reads the classes in."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgecl.backbones import Backbone, BackboneError, Clip
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.backbones.text_encoder import ClassText, TextEncoder
from edgecl.errors import EdgeclError
from edgecl.learning.runs import Run
from edgecl.session import learn_stream, new_learner, open_learner, resume, undo
from edgecl.streams import Stream, StreamError, load_stream
from edgecl_deploy.files import read_packs
from edgecl_deploy.format import parse_pack, read_tensors
from edgecl_export.pack import export_packs

MakeFolders = Callable[..., Path]
OWN = {f"task_{hue // 2:02d}/hue-{hue}": hue for hue in range(4)}
TEMPLATES = {"task_01": ["a satellite photo of {}.", "{} from above"]}


@pytest.fixture
def stream(make_folders: MakeFolders, tmp_path: Path) -> Stream:
    """Return a stream of two tasks, the second with its own templates, given as a file."""
    file = tmp_path / "templates.json"
    file.write_text(json.dumps(TEMPLATES))
    return load_stream(str(make_folders(OWN)), task_templates=str(file))


def test_they_are_read_from_a_file_and_stay_in_the_spec(stream: Stream) -> None:
    assert [task.templates for task in stream.tasks] == [(), tuple(TEMPLATES["task_01"])]
    assert stream.spec["task_templates"] == TEMPLATES
    again = load_stream(**json.loads(json.dumps(stream.spec)))
    assert again.spec == stream.spec
    assert again.tasks[1].templates == stream.tasks[1].templates


@pytest.mark.parametrize(
    ("content", "must"),
    [
        ('["{}"]', r"must be a JSON object.*Write it so"),
        ("{", r"must be JSON; .*Correct the file"),
        ('{"task_09": ["{}"]}', r"tasks of the stream, task_00, task_01; got 'task_09'"),
        ('{"task_00": []}', r"1 to 1024 printable texts.*task_00 has \[\]"),
        ('{"task_00": ["a photo"]}', r"with \{\} for the class name; task_00 has \['a photo'\]"),
        ('{"task_00": ["{}\\n"]}', r"printable texts"),
        ('{"task_00": "{}"}', r"task_templates\.task_00 must be a list"),
        ('{"task_00": [3]}', r"task_00\[0\] must be of type str, got 3"),
    ],
)
def test_what_is_wrong_with_a_file(
    content: str, must: str, make_folders: MakeFolders, tmp_path: Path
) -> None:
    (tmp_path / "templates.json").write_text(content)
    with pytest.raises(StreamError, match=must):
        load_stream(str(make_folders(OWN)), task_templates=str(tmp_path / "templates.json"))


def test_a_file_that_is_not_there(make_folders: MakeFolders) -> None:
    with pytest.raises(StreamError, match=r"none\.json cannot be read.*Check the path"):
        load_stream(str(make_folders(OWN)), task_templates="none.json")


def test_a_large_file_is_refused_before_it_is_read(
    make_folders: MakeFolders, tmp_path: Path
) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 33)
    with pytest.raises(StreamError, match="at most 8388608 bytes"):
        load_stream(str(make_folders(OWN)), task_templates=str(tmp_path / "large"))


@pytest.mark.parametrize("method", ["zero-shot", "diki"])
def test_a_task_s_classes_are_read_in_its_templates(
    method: str, stream: Stream, tiny_clip: Clip, tmp_path: Path, small_config: Any
) -> None:
    """By hand, of the run and of the packs; the second task's also before it is learned."""
    learner = new_learner(
        tmp_path / "run", method, tiny_clip, stream,
        config=small_config(method, epochs=1), protocol="mtil", cache=FeatureCache(None, ""),
    )  # fmt: skip
    summary = learn_stream(learner, stream)
    own = tuple(TEMPLATES["task_01"])
    assert [record.templates for record in learner.run.records()] == [(), own]
    wanted = torch.cat([
        tiny_clip.encode_text(["hue-0", "hue-1"]),
        tiny_clip.encode_text(["hue-2", "hue-3"], own),
    ])
    texts = learner.learned()["texts"]
    assert summary is not None
    assert summary.mtil is not None
    if method == "zero-shot":
        assert torch.equal(texts, wanted)
        assert summary.mtil.matrix[0] == summary.mtil.matrix[1]
    else:
        torch.testing.assert_close(texts[:, 0], wanted, rtol=0, atol=1e-6)  # at weight 0
    export_packs(learner.run, tmp_path / "packs", dtype="float32")
    manifests, blobs = read_packs(tmp_path / "packs")
    shipped = [
        read_tensors(blobs[str(parse_pack(data).tensors["texts"].blob)])["texts"]
        for data in manifests.values()
    ]
    assert torch.equal(torch.cat([torch.from_numpy(rows.copy()) for rows in shipped]), texts)


def test_a_run_goes_on_with_its_templates(stream: Stream, tiny_clip: Clip, tmp_path: Path) -> None:
    kept = {"cache": FeatureCache(None, "")}
    learner = new_learner(tmp_path / "run", "zero-shot", tiny_clip, stream, **kept)
    learn_stream(learner, stream)
    wanted = learner.learned()["texts"]
    undo(learner.run)
    (tmp_path / "templates.json").unlink()
    again = open_learner(tmp_path / "run", device="cpu", backbone=tiny_clip, **kept)
    resume(again)
    assert torch.equal(again.learned()["texts"], wanted)
    assert Run.open(tmp_path / "run").record(1).templates == tuple(TEMPLATES["task_01"])


def test_a_method_that_reads_no_names_refuses_them(
    stream: Stream, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    with pytest.raises(EdgeclError, match=r"got simplecil\. Leave --task-templates out"):
        new_learner(tmp_path / "run", "simplecil", tiny_backbone, stream)
    assert not (tmp_path / "run").exists()


def test_a_template_that_is_too_long_is_refused_before_the_first_task(
    make_folders: MakeFolders, tiny_clip: Clip, tmp_path: Path
) -> None:
    long = {"task_01": ["a photo of {} " + "very " * 20]}
    stream = load_stream(str(make_folders(OWN)), task_templates=long)
    with pytest.raises(BackboneError, match="Shorten the class name, the template"):
        new_learner(tmp_path / "run", "zero-shot", tiny_clip, stream)


def test_rows_stay_in_the_order_of_the_names(tiny_clip: Clip) -> None:
    """Names are embedded in groups of one set of templates each; a name's own come first."""
    names = [ClassText("cat", ("{} A",)), ClassText("dog"), "fox", ClassText("eel", ("{} A",))]
    encoder = TextEncoder(tiny_clip)
    found = encoder.zero_shot(names, ("{} B",))
    wanted = torch.cat([
        tiny_clip.encode_text([name], ("{} A" if name in {"cat", "eel"} else "{} B",))
        for name in ("cat", "dog", "fox", "eel")
    ])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    averaged = encoder.averaged(names, ("{} B", "{} C"), first=True)
    torch.testing.assert_close(averaged, wanted, rtol=0, atol=1e-6)
