"""The parts of one run's page about single classes: figures, confusions, pictures."""

from collections.abc import Sequence
from pathlib import PurePath

from edgecl.learning.class_metrics import ClassFigures, Mistake
from edgecl.report._html import Html, details, join, section, table, tag
from edgecl.report._read import RunFacts
from edgecl.report._words import percent

PICTURES = 200  # of a page
ROWS = 1000  # of the table of classes
OPEN = 30  # rows of a table that is not folded
PAIRS = 30
PARTS = 3  # last parts of a path that are shown


def classes(run: RunFacts) -> Html:
    """Return the figures of each class and the most confused pairs; nothing without test images."""
    figures = run.classes
    if figures is None or not sum(figures.images):
        return Html()
    return section(
        "Classes",
        "At the last stage, over the test images of all tasks, among all classes. Recall is the "
        "share of a class's images that were answered with it, precision the share of the answers "
        "with it that were right.",
        tag("div", _by_class(run, figures), _pairs(figures), class_="pair"),
    )


def _by_class(run: RunFacts, figures: ClassFigures) -> Html:
    task = {
        name: str(index + 1)
        for index, record in reversed(list(enumerate(run.records)))
        for name in record.classes
    }
    columns = (
        figures.names,
        figures.images,
        figures.right,
        figures.recall,
        figures.precision,
    )
    rows = sorted(
        zip(*columns, strict=True), key=lambda row: (row[3] is None, row[3] or 0.0, row[0])
    )
    cells = [
        [name, task.get(name, "–"), str(images), str(right), percent(recall), percent(precision)]
        for name, images, right, recall, precision in rows[:ROWS]
    ]
    left = len(rows) - len(cells)
    caption = "Classes, the lowest recall first"
    whole = table(caption, ["class", "task", "images", "right", "recall", "precision"], cells)
    note = _note(f"{left} classes with a higher recall are left out; metrics.json has them.", left)
    if len(cells) > OPEN:
        whole = details(f"All classes ({len(cells)})", whole)
    return tag("div", tag("h3", "By class"), whole, note)


def _pairs(figures: ClassFigures) -> Html:
    if not figures.pairs:
        return tag("div", tag("h3", "Most confused"), tag("p", "None: no answer was wrong."))
    images = dict(zip(figures.names, figures.images, strict=True))
    rows = [
        [each.wanted, each.said, str(each.images), percent(each.images / images[each.wanted])]
        for each in figures.pairs[:PAIRS]
    ]
    left = len(figures.pairs) - len(rows) + figures.pairs_left_out
    head = ["class", "taken for", "images", "of the class"]
    whole = table("Pairs of classes, the most frequent first", head, rows, text_columns=2)
    return tag("div", tag("h3", "Most confused"), whole, _note(f"{left} pairs more.", left))


def pictures(run: RunFacts) -> Html:
    """Return the worst mistakes and an example of each class; nothing where none are stored."""
    figures = run.classes
    worst = [each for each in figures.mistakes if each.picture] if figures is not None else []
    worst = worst[:PICTURES]
    examples = [(name, picture) for name, picture in run.examples.items() if picture]
    shown = examples[: PICTURES - len(worst)]
    if not worst and not shown:
        return Html()
    wrong = 0 if figures is None else len(figures.mistakes) + figures.mistakes_left_out
    known = len({name for record in run.records for name in record.classes})
    parts = []
    if worst:
        parts += [
            tag("h3", "The worst mistakes"),
            _gallery([_mistake(each) for each in worst]),
            _note(f"{wrong - len(worst)} more are left out.", wrong - len(worst)),
        ]
    if shown:
        more = _gallery([_shot(picture, name, [tag("b", name)]) for name, picture in shown])
        parts += [
            details(f"An example of each class ({len(shown)})", more),
            _note(f"Without a picture: {known - len(shown)} classes.", known - len(shown)),
        ]
    return section(
        "Pictures",
        "As the backbone sees them, small. A mistake is worse the higher the score of the wrong "
        "class was; an example is a class's first training image.",
        *parts,
    )


def _gallery(shots: Sequence[Html]) -> Html:
    return tag("div", *shots, class_="shots")


def _mistake(each: Mistake) -> Html:
    score = "" if each.score is None else f" {each.score:.3g}"
    name = "/".join(PurePath(each.image).parts[-PARTS:])
    words = [tag("b", f"{each.said}{score}"), f"is {each.wanted}", tag("small", name)]
    return _shot(each.picture, f"{each.wanted}, taken for {each.said}", words)


def _shot(picture: str, alt: str, words: Sequence[str]) -> Html:
    """Return one picture with its words."""
    image = tag("img", src=f"data:image/jpeg;base64,{picture}", alt=alt, loading="lazy")
    lines = [tag("span", line) for line in words]
    return tag("figure", image, tag("figcaption", *lines), class_="shot")


def _note(text: str, count: int) -> Html:
    """Return a sentence about what is left out; nothing where nothing is."""
    return tag("p", text, class_="note") if count > 0 else join()
