"""A toy world whose packs hold the scores of their images, as the learner makes them."""

from dataclasses import replace

import numpy as np
from tests.deploy.support.enrolling import colours_of, ridge_release, shades
from tests.deploy.support.world import COLOURS, Made, World, picture

from edgecl_deploy.format import OwnScores, Pack, Rejection, digest, parse_pack, write_tensors
from edgecl_deploy.unknown.own import unit
from edgecl_deploy.unknown.packs import own_scores
from edgecl_deploy.unknown.table import Table

Packed = tuple[Pack, dict[str, bytes]]


def with_scores(made: Packed, table: Table, tensor: str | None = "prototypes") -> Packed:
    """Put scores into a pack."""
    pack, blobs = made
    blob = write_tensors(table.to_tensors())
    unknown = OwnScores((0, 3), tensor, digest(blob))
    sizes = {**pack.blobs, digest(blob): len(blob)}
    return replace(pack, unknown=unknown, blobs=sizes), {**blobs, digest(blob): blob}


def scored_packs(world: World, *names: str, images: int = 40, normed: bool = False) -> list[Packed]:
    """Return a pack for each class, learned from shades of its colour."""
    found: list[Packed] = []
    tables: list[Table] = []
    for task, name in enumerate(names):
        colours = colours_of(shades(COLOURS[name], images, seed=task))
        own = unit(colours) if normed else colours
        mean = own.mean(axis=0)
        scores = [own_scores(own, own.sum(axis=0), images)]
        tables.append(Table.of(scores, tables, mean[None] if normed else None))
        pack = world.pack(task, (name,), tensors={"prototypes": mean[None]}, dtype="float32")
        found.append(with_scores(pack, tables[-1], None if normed else "prototypes"))
    return found


def scored_release(
    world: World, number: int, *names: str, alpha: float | None = None, **options: object
) -> Made:
    """Return a release of `scored_packs`, with a canary of each class."""
    packs = scored_packs(world, *names, **options)
    rows = np.concatenate([
        np.stack(colours_of(shades(COLOURS[name], 40, seed=task))).mean(axis=0)[None]
        for task, name in enumerate(names)
    ])
    images = np.concatenate([picture(name, 1) for name in names])
    scores = (unit(colours_of(list(images))) @ unit(rows).T).astype(np.float32)
    made = world.made(*packs, number=number, canary=(images, scores))
    if alpha is not None:
        made.release = replace(made.release, unknown=Rejection(alpha, {"auroc": 0.9}))
    return made


def scored_ridge(world: World, *names: str) -> Made:
    """Return a release of one pack with a ridge head, whose images are compared with means."""
    pictures = {name: shades(COLOURS[name], 40, seed=i) for i, name in enumerate(names)}
    made = ridge_release(world, 1, pictures)
    units = [unit(colours_of(each)) for each in pictures.values()]
    scores = [own_scores(each, each.sum(axis=0), len(each)) for each in units]
    table = Table.of(scores, mean=np.stack([each.mean(axis=0) for each in units]))
    (plain,) = map(parse_pack, made.manifests.values())
    pack, blobs = with_scores((plain, {}), table, None)
    release = replace(made.release, packs=(digest(pack.to_bytes()),))
    return Made(release, {digest(pack.to_bytes()): pack.to_bytes()}, {**made.blobs, **blobs})
