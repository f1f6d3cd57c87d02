"""Train `edgecl-clip-s`, the built-in CLIP, and write its delta on the weights of `vit-s14`.

Images and names are those of OpenEmoji-10's seen concepts in the six training styles. The other
four styles and the unseen concepts take no part, neither as image nor as text. The image tower is
vit-s14 with a low-rank change of its last blocks and a projection; the text tower starts from
random numbers. Needs `edgecl data fetch openemoji10` and `edgecl weights fetch vit-s14`.

    python scripts/train_clip_s.py --out FOLDER             # the model; half an hour on one core
    python scripts/train_clip_s.py --out FOLDER --validate  # on held-out styles and concepts

A run that was stopped goes on with the same command. `--install` puts the delta where
`load_clip("edgecl-clip-s")` reads it, and pins it in the preset.
"""

import argparse
import io
import json
import math
import random
import shutil
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clip_s_augment import Augment, over
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from edgecl.backbones import TextConfig, TextTower, Tokenizer, load_backbone
from edgecl.backbones.sources.delta import DELTAS, write_delta
from edgecl.streams._openemoji_fetch import (
    concept_digest,
    is_unseen,
    openemoji10_folder,
    read_index,
)
from edgecl_deploy.files import BLOBS, PACKS

NAME = "edgecl-clip-s"
PRESET = DELTAS.parent / "presets" / f"{NAME}.json"
STYLES = ("noto", "noto-v1", "twemoji", "fluent-emoji-flat", "fxemoji", "emojione")
HELD_STYLES = ("emojione", "fxemoji")  # out of the training styles, to choose the recipe by
HELD_CONCEPTS = 96  # likewise, of the seen concepts
SIDE = 112  # pixels
LONGEST = 48  # tokens of a text
TEXT = {"width": 192, "depth": 4, "heads": 3, "context_length": LONGEST, "norm_eps": 1e-5}
CAPTIONS = (
    "a photo of a {}.",
    "a picture of a {}.",
    "an icon of a {}.",
    "an emoji of a {}.",
    "a drawing of a {}.",
    "a sketch of a {}.",
    "a cartoon {}.",
    "the {}.",
    "{} emoji",
    "{}, an emoji on a white background",
    "clip art of a {}, simple and colourful",
    "a small picture that shows a {} on a plain background",
    "a black and white drawing of a {}.",
    "this is what a {} looks like when it is drawn as a small icon",
    "in this small square picture, drawn in some style on some background, there is a {}.",
)
READ = ("{}", "a picture of a {}.", "an icon of a {}.", "{} emoji")  # class names, at test


@dataclass(frozen=True)
class Recipe:
    """What the training depends on."""

    seed: int = 0
    views: int = 3  # of every image, the first as it is, for the projection and the first steps
    shrinkage: float = 0.1  # of the scatter within concepts, where the projection comes from
    plain_steps: int = 100  # first of the text tower only, on names
    first_steps: int = 300  # then on captions too, until the image tower joins
    steps: int = 800  # until then both towers
    last_steps: int = 400  # then the projection and the text tower again
    last_batch: int = 1024  # images of the second half of those
    batch: int = 128  # concepts, one image and one caption each
    projection: int = 256  # the width that both towers share
    blocks: int = 5  # the last ones of the image tower, which change
    rank: int = 16  # of the change of each weight
    rate: float = 1e-3
    token_rate: float = 1e-2  # of the token embedding, whose rows are rarely met
    decay: float = 0.05
    warmup: int = 40  # steps
    last_warmup: int = 20
    plain: float = 0.35  # captions that are the name alone
    hyphens: float = 0.25  # captions with the name as the icon has it
    dropped: float = 0.1  # captions of several words that lack one


class LowRank(nn.Module):
    """A weight plus the product of two thin matrices."""

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        self.a = nn.Parameter(torch.randn(rank, weight.shape[1]) * weight.shape[1] ** -0.5)
        self.b = nn.Parameter(torch.zeros(weight.shape[0], rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


class Student(nn.Module):
    """Both towers in training; the text tower knows the tokens of the captions only."""

    def __init__(self, recipe: Recipe, vocabulary: Tensor):
        super().__init__()
        torch.manual_seed(recipe.seed)
        backbone = load_backbone("vit-s14", image_size=SIDE)
        self.base = backbone.digest
        preprocess = backbone.preprocess
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocess.std).view(1, 3, 1, 1))
        self.visual: Any = backbone.model
        self.first = len(self.visual.blocks) - recipe.blocks
        width = self.visual.width
        self.projection = nn.Parameter(torch.randn(width, recipe.projection) * width**-0.5)
        for block in self.visual.blocks[self.first :]:
            for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
                change = LowRank(layer.weight, recipe.rank)
                parametrize.register_parametrization(layer, "weight", change)
        self.visual.norm.requires_grad_(True)
        self.text = TextTower(
            TextConfig(vocab_size=len(vocabulary), projection=recipe.projection, **TEXT)
        )
        nn.init.normal_(self.text.token_embedding.weight, std=0.2)  # each token has its own place
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.register_buffer("vocabulary", vocabulary)

    def features(self, rgb: Tensor) -> Tensor:
        """Return what the projection takes, of RGB in 0..1."""
        with parametrize.cached(), torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                x = self.visual.tokens_before(self.first, (rgb - self.mean) / self.std)
            return self.visual.run_from(self.first, x).cls.float()

    def project(self, features: Tensor) -> Tensor:
        """Return embeddings of norm 1 of images' features."""
        return F.normalize(features @ self.projection, dim=-1)

    def images(self, rgb: Tensor) -> Tensor:
        """Return embeddings of norm 1 of RGB in 0..1."""
        return self.project(self.features(rgb))

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return embeddings of norm 1 of texts.

        Raises:
            ValueError: a text has a token that no caption can have.
        """
        tokens = Tokenizer(LONGEST)(texts).contiguous()
        places = torch.searchsorted(self.vocabulary, tokens)
        if not torch.equal(self.vocabulary[places], tokens):
            raise ValueError("A text must consist of the captions' tokens, got another.")
        ends = tokens.argmax(dim=1)
        order, rows = ends.argsort(), []
        for part in order.split(math.ceil(len(order) / 4)):  # of much the same length
            cut = places[part, : int(ends[part].max()) + 1]
            with torch.autocast("cpu", torch.bfloat16):
                rows.append(self.text(cut))  # sorted, so that [EOT] stays the largest
        return F.normalize(torch.cat(rows).float(), dim=-1)[order.argsort()]

    def learned(self) -> dict[str, Tensor]:
        """Return what is trained, by name."""
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}


def spaced(name: str) -> str:
    """Return a concept's name as words."""
    return name.replace("-", " ")


def caption(name: str, recipe: Recipe, draw: random.Random) -> str:
    """Return a text about a concept."""
    text = name if draw.random() < recipe.hyphens else spaced(name)
    words = text.split(" ")
    if len(words) > 2 and draw.random() < recipe.dropped:
        del words[draw.randrange(len(words))]
        text = " ".join(words)
    template = "{}" if draw.random() < recipe.plain else draw.choice(CAPTIONS)
    return template.replace("{}", text)


def vocabulary_of(names: Sequence[str]) -> Tensor:
    """Return the ids of all tokens that captions of these concepts can have, sorted."""
    parts = [*names, *map(spaced, names), *CAPTIONS, *(t.replace("{}", "a") for t in CAPTIONS)]
    return torch.unique(Tokenizer(77)(parts))


class ImageBatch:
    """Images as premultiplied RGBA bytes [n, 4, s, s], and which concept each shows."""

    def __init__(self, concepts: dict[str, Any], names: Sequence[str], styles: Sequence[str]):
        cells = [(s, i) for s in styles for i, n in enumerate(names) if s in concepts[n]["styles"]]
        self.labels = torch.tensor([label for _, label in cells])
        self.pixels = torch.zeros(len(cells), 4, SIDE, SIDE, dtype=torch.uint8)
        folder = openemoji10_folder()
        archives = {style: zipfile.ZipFile(folder / f"{style}.zip") for style in styles}
        for row, (style, label) in enumerate(cells):
            image = Image.open(io.BytesIO(archives[style].read(f"{names[label]}.png")))
            image = image.convert("RGBA").convert("RGBa")  # premultiplied
            small = np.array(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
            self.pixels[row] = torch.from_numpy(small).permute(2, 0, 1)
        self.of = [(self.labels == label).nonzero()[:, 0] for label in range(len(names))]

    def rows(self, which: Tensor) -> Tensor:
        return self.pixels[which].float() / 255


def steps(recipe: Recipe, names: Sequence[str], start: int) -> Iterator[tuple[int, Tensor]]:
    """Yield step numbers and concepts; the order depends on the seed and the step only."""
    per_epoch = len(names) // recipe.batch
    for step in range(start, recipe.steps):
        epoch, at = divmod(step, per_epoch)
        order = torch.randperm(
            len(names), generator=torch.Generator().manual_seed(recipe.seed * 9973 + epoch)
        )
        yield step, order[at * recipe.batch : (at + 1) * recipe.batch]


def captions(
    names: Sequence[str], which: Tensor, recipe: Recipe, draw: random.Random, plain: bool
) -> list[str]:
    """Return a text about each of some concepts, if plain its name."""
    recipe = replace(recipe, plain=1.0) if plain else recipe
    return [caption(names[i], recipe, draw) for i in which]


def first_loss(
    student: Student, names: Sequence[str], which: Tensor, means: Tensor, recipe: Recipe, step: int
) -> Tensor:
    """Contrast captions with the mean image of every concept."""
    draw = random.Random(recipe.seed * 1_000_003 + step)  # noqa: S311
    texts = student.texts(captions(names, which, recipe, draw, step < recipe.plain_steps))
    return F.cross_entropy(student.logit_scale.exp() * texts @ means.T, which)


def loss_of(
    student: Student,
    pictures: ImageBatch,
    names: Sequence[str],
    which: Tensor,
    bank: Tensor,
    recipe: Recipe,
    step: int,
) -> Tensor:
    """Contrast the images with all names and the captions with the batch's images.

    `bank` holds the last embedding of each name; those of the batch are computed, and kept there.
    """
    seed = recipe.seed * 1_000_003 + step
    generator, draw = torch.Generator().manual_seed(seed), random.Random(seed)  # noqa: S311
    rows = torch.stack([pictures.of[i][draw.randrange(len(pictures.of[i]))] for i in which])
    images = student.images(Augment(generator)(pictures.select(rows)))
    texts = student.texts(captions(names, which, recipe, draw, False))
    scale = student.logit_scale.exp()
    against = bank.index_put((which,), texts)
    bank[which] = texts.detach()
    to_text = F.cross_entropy(scale * images @ against.T, which)
    to_image = F.cross_entropy(scale * texts @ images.T, torch.arange(len(which)))
    return (to_text + to_image) / 2


@torch.no_grad()
def views_of(student: Student, pictures: ImageBatch, recipe: Recipe, kept: Path) -> Tensor:
    """Return features [view, image, d] of every image as it is and drawn anew some times."""
    if kept.exists():
        return torch.load(kept, weights_only=True)
    augment = Augment(torch.Generator().manual_seed(recipe.seed))
    views = []
    for view in range(recipe.views):
        rows = []
        for batch in torch.arange(len(pictures.labels)).split(128):
            rgba = pictures.rows(batch)
            rgb = augment(rgba) if view else over(rgba, torch.ones(1, 3, 1, 1))
            rows.append(student.features(rgb))
        views.append(torch.cat(rows))
        print(f"{time.strftime('%H:%M:%S')} features of view {view + 1}/{recipe.views}", flush=True)
    stacked = torch.stack(views)
    save(stacked, kept)
    return stacked


def save(value: Any, file: Path) -> None:
    """Write a file whole or not at all."""
    torch.save(value, file.with_suffix(".part"))
    file.with_suffix(".part").replace(file)


def concept_means(rows: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return the mean row of each concept."""
    sums = rows.new_zeros(count, rows.shape[1]).index_add(0, labels, rows)
    return sums / torch.bincount(labels, minlength=count).clamp(min=1)[:, None]


def discriminants(views: Tensor, labels: Tensor, count: int, recipe: Recipe) -> Tensor:
    """Return a projection in which concepts lie apart whatever the style (Fisher's discriminants).

    It has no bias, so the direction of the mean of all is left out.
    """
    rows, labels = views.flatten(0, 1).double(), labels.repeat(len(views))
    means = concept_means(rows, labels, count)
    inner = rows - means[labels]
    scatter = inner.T @ inner / len(rows)
    scatter += recipe.shrinkage * scatter.diagonal().mean() * torch.eye(len(scatter))
    values, vectors = torch.linalg.eigh(scatter)
    whiten = vectors * values.rsqrt()
    common = F.normalize((means @ whiten).mean(dim=0), dim=0)
    whiten -= (whiten @ common)[:, None] * common
    between = (means @ whiten).T @ (means @ whiten)
    projection = whiten @ torch.linalg.eigh(between).eigenvectors[:, -recipe.projection :]
    return (projection / (rows @ projection).square().mean().sqrt()).float()


def mean_images(student: Student, views: Tensor, pictures: ImageBatch) -> Tensor:
    """Return the mean of the images of each concept, as they are, of norm 1."""
    rows = student.project(views[0])
    return F.normalize(concept_means(rows, pictures.labels, len(pictures.of)), dim=-1)


@torch.no_grad()
def begin(student: Student, pictures: ImageBatch, recipe: Recipe, kept: Path) -> tuple[Tensor, ...]:
    """Set the projection; return the features of the views and the mean image of each concept."""
    views, count = views_of(student, pictures, recipe, kept), len(pictures.of)
    student.projection.copy_(discriminants(views, pictures.labels, count, recipe))
    return views, mean_images(student, views, pictures)


def optimiser_of(student: Student, recipe: Recipe) -> torch.optim.Optimizer:
    """Return AdamW, which lets vectors and the temperature be."""
    learned = dict(student.named_parameters())
    tokens = learned.pop("text.token_embedding.weight")
    others = [p for p in learned.values() if p.requires_grad]
    groups = [
        {"params": [tokens], "lr": recipe.token_rate, "weight_decay": recipe.decay},
        {"params": [p for p in others if p.ndim > 1], "weight_decay": recipe.decay},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98))


def rate_at(step: int, recipe: Recipe) -> float:
    """Return the share of the rates: it rises, stays, and falls once the image tower changes."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    first = max(recipe.warmup, recipe.first_steps)
    done = max(0, step - first) / max(1, recipe.steps - first)
    return cosine(done)


def cosine(done: float) -> float:
    """Return what falls from 1 to 0 while `done` rises from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * done))


def train(
    student: Student, pictures: ImageBatch, names: Sequence[str], recipe: Recipe, out: Path
) -> float:
    """Train, or go on; return the seconds of computing, of all parts together.

    Raises:
        SystemExit: the folder holds a run of another recipe.
    """
    kept, optimiser = out / "checkpoint.pt", optimiser_of(student, recipe)
    rates = [group["lr"] for group in optimiser.param_groups]
    start, seconds, clock = 0, 0.0, time.monotonic()
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        if state["recipe"] != asdict(recipe) or state["names"] != list(names):
            raise SystemExit(f"{kept} must be of this recipe, got another. Give another --out.")
        student.load_state_dict(state["learned"], strict=False)
        optimiser.load_state_dict(state["optimiser"])
        means, bank, start, seconds = (state[k] for k in ("means", "bank", "step", "seconds"))
    else:
        _, means = begin(student, pictures, recipe, out / "views.pt")
        bank = means.clone()
    began, mean = clock - seconds, 0.0
    for step, which in steps(recipe, names, start):
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * rate_at(step, recipe)
        if step < recipe.first_steps:
            loss = first_loss(student, names, which, means, recipe, step)
        else:
            if step == recipe.first_steps:
                bank = class_embeddings(student, names)
            loss = loss_of(student, pictures, names, which, bank, recipe, step)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            student.logit_scale.clamp_(max=math.log(100))
        mean = loss.item() if step == start else 0.95 * mean + 0.05 * loss.item()
        if (step + 1) % (100 if step < recipe.first_steps else 25) == 0 or step + 1 == recipe.steps:
            seconds = time.monotonic() - began
            print(
                f"{time.strftime('%H:%M:%S')} step {step + 1}/{recipe.steps}  loss {mean:.3f}  "
                f"scale {float(student.logit_scale.exp()):.1f}  {seconds:.0f} s",
                flush=True,
            )
            state = {
                "recipe": asdict(recipe),
                "names": list(names),
                "learned": student.learned(),
                "optimiser": optimiser.state_dict(),
                "means": means,
                "bank": bank,
                "step": step + 1,
                "seconds": seconds,
            }
            save(state, kept)
    return seconds


def finish(
    student: Student, pictures: ImageBatch, names: Sequence[str], recipe: Recipe, out: Path
) -> None:
    """Set the projection anew for the image tower as it now is, and teach the text tower to it.

    First captions are contrasted with the mean image of every concept, then views of the images
    with all names besides.
    """
    views, means = begin(student, pictures, recipe, out / "last_views.pt")
    optimiser, half = optimiser_of(student, recipe), recipe.last_steps // 2
    rates = [group["lr"] for group in optimiser.param_groups]
    for step in range(recipe.last_steps):
        seed = recipe.seed * 1_000_003 + 7777 + step
        generator, draw = torch.Generator().manual_seed(seed), random.Random(seed)  # noqa: S311
        share = min(1, (step + 1) / recipe.last_warmup) * cosine(step / recipe.last_steps)
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * share
        which = torch.randperm(len(names), generator=generator)[: recipe.batch]
        texts = student.texts(captions(names, which, recipe, draw, step < half // 2))
        scale = student.logit_scale.exp()
        if step < half:
            loss = F.cross_entropy(scale * texts @ means.T, which)
        else:
            if step == half:
                bank = class_embeddings(student, names)
            rows = torch.randint(views.shape[1], (recipe.last_batch,), generator=generator)
            view = torch.randint(len(views), rows.shape, generator=generator)
            images = student.project(views[view, rows])
            against = bank.index_put((which,), texts)
            bank[which] = texts.detach()
            to_text = F.cross_entropy(scale * images @ against.T, pictures.labels[rows])
            means = mean_images(student, views, pictures)
            loss = to_text + F.cross_entropy(scale * texts @ means.T, which)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % 100 == 0:
            print(f"last step {step + 1}/{recipe.last_steps}  loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def class_embeddings(student: Student, names: Sequence[str]) -> Tensor:
    """Return one embedding of norm 1 for each concept's name."""
    texts = [t.replace("{}", spaced(name)) for name in names for t in READ]
    rows = student.texts(texts).unflatten(0, (len(names), len(READ)))
    return F.normalize(rows.mean(1), dim=-1)


@torch.no_grad()
def accuracy(student: Student, pictures: ImageBatch, classes: Tensor) -> float:
    """Return the share of images whose nearest name is theirs."""
    right = 0
    for rows in torch.arange(len(pictures.labels)).split(128):
        rgb = over(pictures.select(rows), torch.ones(1, 3, 1, 1))
        nearest = (student.images(rgb) @ classes.T).argmax(1)
        right += int((nearest == pictures.labels[rows]).sum())
    return right / max(1, len(pictures.labels))


def validate(
    student: Student, concepts: dict[str, Any], known: list[str], new: list[str]
) -> dict[str, float]:
    """Measure on the held-out styles with the names trained on, and on the held-out concepts."""
    found = {}
    classes, others = class_embeddings(student, known), class_embeddings(student, new)
    for style in HELD_STYLES:
        found[f"{style}, {len(known)} names"] = accuracy(
            student, ImageBatch(concepts, known, [style]), classes
        )
    for style in ("noto", *HELD_STYLES):
        found[f"{style}, {len(new)} new names"] = accuracy(
            student, ImageBatch(concepts, new, [style]), others
        )
    return found


def named(student: Student) -> dict[str, Tensor]:
    """Return what ships under the names of a delta (edgecl/backbones/sources/delta.py)."""
    found = {"text.tokens": student.vocabulary}
    for name, value in student.learned().items():
        name = name.removeprefix("visual.").replace("parametrizations.weight.0", "weight")
        found["text.logit_scale" if name == "logit_scale" else name] = value
    found["text.logit_scale"] = found["text.logit_scale"].reshape(1)
    return found


def install(pack: str, out: Path) -> None:
    """Put the delta into the package and pin it in the preset."""
    for part in (PACKS, BLOBS):
        shutil.rmtree(DELTAS / NAME / part, ignore_errors=True)
        shutil.copytree(out / NAME / part, DELTAS / NAME / part)
    preset = json.loads(PRESET.read_text(encoding="utf-8"))
    former = preset["source"]["pack"]
    text = PRESET.read_text(encoding="utf-8").replace(former, pack)
    PRESET.write_text(text, encoding="utf-8")


def main() -> None:
    """Train, and write what ships."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--validate", action="store_true", help="hold styles and concepts out")
    parser.add_argument("--install", action="store_true", help="put it into the package, pin it")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--recipe", type=json.loads, default={}, help="JSON: other settings")
    arguments = parser.parse_args()
    recipe = Recipe(**arguments.recipe)
    arguments.out.mkdir(parents=True, exist_ok=True)
    concepts = read_index(openemoji10_folder())["concepts"]
    names = sorted(name for name in concepts if not is_unseen(name))
    held = sorted(names, key=concept_digest)[: HELD_CONCEPTS * arguments.validate]
    known = [name for name in names if name not in held]
    styles = [s for s in STYLES if not (arguments.validate and s in HELD_STYLES)]
    student = Student(recipe, vocabulary_of(names))
    pictures = ImageBatch(concepts, known, styles)
    size = sum(p.numel() for p in student.learned().values())
    print(
        f"{len(known)} concepts, {len(pictures.labels)} images, {size} numbers to learn", flush=True
    )
    seconds = train(student, pictures, known, recipe, arguments.out)
    began = time.monotonic()
    finish(student, pictures, known, recipe, arguments.out)
    seconds += time.monotonic() - began
    figures: dict[str, Any] = {"recipe": asdict(recipe), "seconds": round(seconds)}
    if arguments.validate:
        figures["validation"] = validate(student, concepts, known, held)
        for name, value in figures["validation"].items():
            print(f"{name}: {100 * value:.1f} %", flush=True)
    else:
        shutil.rmtree(arguments.out / NAME, ignore_errors=True)
        figures["pack"] = write_delta(arguments.out / NAME, NAME, student.base, named(student))
        files = [path for path in (arguments.out / NAME).rglob("*") if path.is_file()]
        figures["bytes"] = sum(path.stat().st_size for path in files)
        print(f"{arguments.out / NAME}: {figures['bytes']} bytes, pack {figures['pack']}")
        if arguments.install:
            install(figures["pack"], arguments.out)
    if arguments.json:
        print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
