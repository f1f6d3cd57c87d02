"""What `edgecl-clip-s` reads off images that it was not trained on.

Zero-shot accuracy and retrieval on OpenEmoji-10, per style: over all seen concepts in the four
styles that took no part in its training, and over the first 100 unseen concepts by name in all ten
styles. Writes results/clip_s.json and results/clip_s.md. Five minutes on one core; needs
`edgecl data fetch openemoji10` and `edgecl weights fetch vit-s14`.

    python benchmarks/clip_s.py [--json]
"""

import argparse
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Clip, load_clip
from edgecl.streams._openemoji import TRAIN_STYLES
from edgecl.streams._openemoji_fetch import is_unseen, openemoji10_folder, read_index, styles

RESULTS = Path(__file__).parent / "results"
FLOORS = {  # zero-shot over all seen concepts, percent
    "fluent-emoji": 90,
    "emojione-v1": 65,
    "openmoji": 20,
    "fluent-emoji-high-contrast": 20,
}
UNSEEN = 100  # concepts
RANKS = (1, 5)
HEAD = "| style | images | names | zero-shot | as icons name them | image to text | text to image |"


@torch.no_grad()
def embed(clip: Clip, style: str, names: list[str]) -> Tensor:
    """Return embeddings of norm 1 of a style's images of these concepts."""
    with zipfile.ZipFile(openemoji10_folder() / f"{style}.zip") as archive:
        images = [Image.open(io.BytesIO(archive.read(f"{name}.png"))) for name in names]
        pixels = torch.from_numpy(np.stack([clip.visual.preprocess(image) for image in images]))
    rows = [
        clip.visual.model(clip.visual.preprocess.normalise(part)).cls for part in pixels.split(64)
    ]
    return F.normalize(torch.cat(rows), dim=-1)


def recall(scores: Tensor, right: Tensor) -> list[float]:
    """Return the percentage of rows whose right column is among the best k."""
    order = scores.argsort(dim=1, descending=True)
    return [
        round(100 * float((order[:, :k] == right[:, None]).any(1).float().mean()), 1) for k in RANKS
    ]


def measure(clip: Clip, style: str, shown: list[str], names: list[str]) -> dict[str, Any]:
    """Compare a style's images of some concepts with all these names."""
    images = embed(clip, style, shown)
    spaced = [name.replace("-", " ") for name in names]
    texts, hyphened = (clip.encode_text(each, clip.templates) for each in (spaced, names))
    right = torch.tensor([names.index(name) for name in shown])
    to_text = recall(images @ texts.T, right)
    return {
        "style": style,
        "images": len(shown),
        "names": len(names),
        "zero_shot": to_text[0],
        "with_hyphens": recall(images @ hyphened.T, right)[0],
        "image_to_text": to_text,
        "text_to_image": recall(texts[right] @ images.T, torch.arange(len(shown))),
    }


def rows_of(clip: Clip) -> dict[str, list[dict[str, Any]]]:
    """Measure seen concepts in new styles, and new concepts in all styles."""
    concepts = read_index(openemoji10_folder())["concepts"]
    seen = sorted(name for name in concepts if not is_unseen(name))
    unseen = sorted(name for name in concepts if is_unseen(name))[:UNSEEN]

    def rows(wanted: list[str], names: list[str]) -> list[dict[str, Any]]:
        shown = {s: [name for name in names if s in concepts[name]["styles"]] for s in wanted}
        return [measure(clip, style, shown[style], names) for style in wanted]

    return {"seen": rows(list(FLOORS), seen), "unseen": rows([s.style for s in styles()], unseen)}


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a table."""
    lines = [HEAD, f"|---|{'---:|' * (HEAD.count('|') - 2)}"]
    for row in rows:
        style = row["style"] + ("" if row["style"] in FLOORS else " (style trained on)")
        ranks = (" / ".join(f"{x:.1f}" for x in row[k]) for k in ("image_to_text", "text_to_image"))
        cells = [style, row["images"], row["names"], row["zero_shot"], row["with_hyphens"], *ranks]
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return lines


def page(found: dict[str, Any]) -> str:
    """Return results/clip_s.md."""
    floors = ", ".join(f"{style} {floor}" for style, floor in FLOORS.items())
    return "\n".join([
        "# edgecl-clip-s",
        "",
        f"`python benchmarks/clip_s.py`; digest {found['digest'][:12]}, image tower "
        f"{found['visual_digest'][:12]}, float32. Figures in percent.",
        "Zero-shot: the nearest of all names, as words and as icons name them, with hyphens. "
        f"Retrieval: R@{RANKS[0]} / R@{RANKS[1]}.",
        f"Templates: {', '.join(found['templates'])}.",
        "",
        "## All seen concepts, styles that were not trained on",
        "",
        *table(found["seen"]),
        "",
        f"Floors: {floors}.",
        "",
        f"## The first {UNSEEN} unseen concepts by name, which were not trained on",
        "",
        *table(found["unseen"]),
        "",
        f"Machine: {found['machine']}.",
        "",
    ])


def main() -> None:
    """Measure, print and record.

    Raises:
        SystemExit: a figure is below its floor.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the two files")
    arguments = parser.parse_args()
    clip = load_clip("edgecl-clip-s")
    assert set(FLOORS).isdisjoint(TRAIN_STYLES)
    found = {
        "digest": clip.digest,
        "visual_digest": clip.visual.digest,
        "templates": clip.templates,
        "machine": machine(),
        **rows_of(clip),
    }
    as_json = json.dumps(found, indent=1)
    (arguments.out / "clip_s.json").write_text(as_json + "\n", encoding="utf-8")
    (arguments.out / "clip_s.md").write_text(page(found), encoding="utf-8")
    print(as_json if arguments.json else page(found))
    missed = [row["style"] for row in found["seen"] if row["zero_shot"] < FLOORS[row["style"]]]
    if missed:
        raise SystemExit(f"below the floor: {', '.join(missed)}")


if __name__ == "__main__":
    main()
