"""The commands of the cache of frozen features: `edgecl cache`."""

import time

import rich_click as click

from edgecl.cli.printing import print_rows
from edgecl_deploy.console import json_option, print_json


@click.group()
def cache() -> None:
    """Features of images, stored so that no image is computed twice."""


@cache.command("show")
@json_option
def cache_show(as_json: bool) -> None:
    """Show the stored features: of which backbones, how many images, how many bytes."""
    from edgecl.backbones.feature_files import stored
    from edgecl.cache import cache_dir, feature_bytes
    from edgecl.catalogue import size

    found = stored(cache_dir())
    total, limit = sum(each.bytes for each in found), feature_bytes()
    if as_json:
        print_json({
            "path": str(cache_dir() / "features"),
            "bytes": total,
            "limit": limit,
            "backbones": [vars(each) for each in found],
        })
        return
    rows = [
        {
            "backbone": each.backbone[:12],
            "processor": each.processor,
            "images": each.images,
            "size": size(each.bytes) or "0 B",
            "last use": time.strftime("%Y-%m-%d %H:%M", time.localtime(each.used)),
        }
        for each in found
    ]
    if rows:
        print_rows(rows, as_json=False)
    click.echo(
        f"{size(total) or '0 B'} of at most {size(limit) or '0 B'} in {cache_dir()}/features"
    )


@cache.command("clear")
@json_option
def cache_clear(as_json: bool) -> None:
    """Remove all stored features; they are computed again when they are needed."""
    from edgecl.backbones.feature_files import clear
    from edgecl.cache import cache_dir
    from edgecl.catalogue import size
    from edgecl.errors import EdgeclError

    path = cache_dir() / "features"
    try:
        removed, files = clear(cache_dir())
    except OSError as error:
        raise EdgeclError(
            f"The features in {path} must be yours to remove, got: {error}. Change the rights of "
            "the folder, or name another one in EDGECL_CACHE."
        ) from error
    if as_json:
        print_json({"path": str(path), "bytes": removed, "files": files})
    else:
        click.echo(f"removed {size(removed) or '0 B'} from {path}")
