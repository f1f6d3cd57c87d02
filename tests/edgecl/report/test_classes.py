"""The parts of a page about single classes: figures, confusions, pictures."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.edgecl.report.pages import HOSTILE, figures, make_run, stage, with_classes, written

from edgecl import report
from edgecl.errors import EdgeclError
from edgecl.learning.class_metrics import ClassTally
from edgecl.learning.learner import Learner
from edgecl.learning.pictures import thumbnail
from edgecl.session import learn_stream
from edgecl.streams import Stream


def test_the_figures_of_each_class_are_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with_classes(run, figures(mistakes=3))
    text = written(run).text
    assert f"{HOSTILE} 1 4 1 25.0 % 100.0 %" in text  # of the first task; one of four right
    assert "cat 0 1 1 1 100.0 % 25.0 %" in text
    assert "cat 2 3 0 0 – –" in text
    assert text.index(f"{HOSTILE} 1 4") < text.index("cat 0 1 1") < text.index("cat 2 3 0")
    assert f"{HOSTILE} cat 0 3 75.0 %" in text  # the pair
    assert f"cat 0 1.5 is {HOSTILE}" in text  # a mistake
    assert "test/hard/0.png" in text
    assert "away" not in text, "where the images are is nobody's business"


def test_pictures_are_bounded_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    names = [f"class {index:05d}" for index in range(1500)]
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    run = make_run(tmp_path / "run", tasks=1)
    record = json.loads((run / "tasks" / "000" / "task.json").read_text())
    record |= {"classes": names, "class_images": [1] * 1500, "known": [], "skipped": ["x"] * 1000}
    (run / "tasks" / "000" / "task.json").write_text(json.dumps(record))
    tally = ClassTally(names)
    for index in range(300):
        tally.add(f"{index}.png", names[index], names[index + 1], 0.5, lambda: noise)
    with_classes(run, tally.figures(), dict.fromkeys(names[:200], thumbnail(noise)))
    page = written(run)
    assert len(page.named("img")) == 200
    assert (run / "report.html").stat().st_size < 2_000_000
    assert f"{300 - 48} more are left out." in page.text
    assert f"Without a picture: {1500 - 152} classes." in page.text
    assert "500 classes with a higher recall are left out" in page.text
    assert "270 pairs more." in page.text
    assert "800 more: task.json of each task names them" in page.text


def test_pictures_have_words(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with_classes(run, figures(mistakes=1))
    alts = [image["alt"] for image in written(run).named("img")]
    assert alts == [f"{HOSTILE}, taken for cat 0", HOSTILE]


def test_a_run_without_test_images_has_no_figures_of_classes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with_classes(run, ClassTally(("cat 0",)).figures(), {})
    text = written(run).text
    assert "By class" not in text
    assert "The worst mistakes" not in text


def test_the_own_test_part_of_a_later_task_is_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tasks=2, late=1)
    late = {**stage((0.0, 0.0, 0.75), {}, None).to_json(), "images": [0, 0, 12]}
    with_classes(run, figures(mistakes=1), late=late)
    assert "3 task-2 2 32 12 75.0 % – – – 4.5 s 0" in written(run).text


def test_a_stored_picture_is_a_picture(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with_classes(run, figures(), {"cat 0": '"><script>alert(1)</script>'})
    with pytest.raises(EdgeclError, match=r"a readable examples\.json.*Restore"):
        report.write_report(run)


def test_a_run_stores_what_its_page_shows(
    make_learner: Callable[..., Learner], make_stream: Callable[..., Stream]
) -> None:
    """No image is read again, so the page is the same when the images are gone."""
    stream = make_stream(((0, 1), (2,)))
    learner = make_learner("simplecil", stream)
    learn_stream(learner, stream)
    first = learner.load(stream.tasks[1].train, "").images[0]
    assert learner.run.examples(1) == {"hue-2": thumbnail(first)}
    page = written(learner.run.path)
    assert [image["alt"] for image in page.named("img")][-3:] == ["hue-0", "hue-1", "hue-2"]
    assert all(name in page.text for name in ("By class", "Most confused", "of each class (3)"))
