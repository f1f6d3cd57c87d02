"""The command that answers over HTTP."""

import json
from typing import Any

import click

from edgecl_deploy.cli._classify import answering
from edgecl_deploy.cli._run import LOCAL_FOLDER, WHERE, split
from edgecl_deploy.cli._shared import failure, misused

DEFAULT = "127.0.0.1:8080"


@click.command()
@answering
@LOCAL_FOLDER
@click.option(
    "--page",
    is_flag=True,
    help="Show a page with camera and answers; who may ask may then also enrol, without tokens.",
)
@click.option(
    "--text",
    metavar="TEXT_PROGRAM",
    help="What embeds names, so that a class can be taken by its name.",
)
@click.option(
    "--deadline",
    type=click.FloatRange(0.01, 3600),
    default=30.0,
    show_default=True,
    help="Seconds that a request may wait for its run.",
)
@click.option(
    "--queue",
    type=click.IntRange(1, 4096),
    default=64,
    show_default=True,
    help="Images in work; further requests are answered 503.",
)
@click.option(
    "--host", "hosts", multiple=True, metavar="NAME", help="A name that callers know the server by."
)
@click.option(
    "--meanwhile",
    metavar="ENGINE",
    help="What answers in float32 while the engine that is asked for compiles: onnxruntime.",
)
@click.option("--client-ca", metavar="FILE", help="Ask callers for a certificate signed by this.")
@click.option("--tls-key", metavar="FILE", help="The key of the certificate.")
@click.option("--tls-cert", metavar="FILE", help="Encrypt, with this certificate.")
@click.option("--token-file", metavar="FILE", help="Ask callers for a token of this file.")
@click.option(
    "--listen",
    default=DEFAULT,
    show_default=True,
    metavar="HOST:PORT|unix:PATH",
    help="Where; other machines need a token or a certificate.",
)
@click.argument("paths", nargs=-1, required=True, metavar=WHERE)
def serve(
    paths: tuple[str, ...],
    listen: str,
    token_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    client_ca: str | None,
    hosts: tuple[str, ...],
    queue: int,
    deadline: float,
    top: int,
    local: str | None,
    page: bool,
    text: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Answer over HTTP with the release that a STORE serves, or with RELEASE on BUNDLE.

    The protocol is Open Inference Protocol v2; an image file alone is answered, too. A STORE's new
    releases answer as they come. SIGTERM and Ctrl-C let requests that have begun finish, and refuse
    new ones, for at most ten seconds.
    """
    path, release, rest = split(paths)
    if rest:
        misused(f"serve takes a store, or a bundle and a release: {rest[0]}")
    if release is None and local is not None:
        misused("Use --local DIR with a bundle and a release, and not with a store.")
    if (tls_cert is None) != (tls_key is None) or (client_ca is not None and tls_cert is None):
        misused("--tls-cert and --tls-key go together, and --client-ca needs both.")
    try:
        from edgecl_deploy.server import guard, listening
        from edgecl_deploy.server.app import make_app
        from edgecl_deploy.server.page import read_page
        from edgecl_deploy.server.service import Service
    except ImportError as error:
        failure(
            f"the server's packages must be installed; found {error}. "
            "Install them with: pip install 'edgecl-deploy[server]'"
        )
    from edgecl_deploy.runtime import Classifier
    from edgecl_deploy.text import TextEncoder

    address = guard.Address.parse(listen)
    address.check(token_file is not None or client_ca is not None)
    tokens = guard.Tokens() if token_file is None else guard.Tokens.read(token_file)
    tls = None
    if tls_cert is not None and tls_key is not None:
        tls = listening.Tls(tls_cert, tls_key, client_ca)
        tls.context()  # before a model is loaded
    trusted = not address.open or client_ca is not None
    anyone = guard.Rights.ENROL if page else guard.Rights.READ
    checks = guard.Guard(tokens, trusted, guard.names(address, hosts), anyone)
    files = read_page() if page else None

    def tell(entry: dict[str, Any]) -> None:
        click.echo(json.dumps(entry) if as_json else sentence(entry))

    with (
        listening.bind(address) as bound,
        Classifier.open(path, release, local=local, **options) as classifier,
    ):
        names = None if text is None else TextEncoder.open(text, threads=options["threads"])
        service = Service(classifier, tell, room=queue, deadline=deadline, top=top, text=names)
        try:
            server = listening.make_server(make_app(service, checks, files), service, tls)
            where = listening.url_of(bound, tls is not None)
            listening.serve(
                server,
                bound,
                lambda: service.events.add("start", release=classifier.release, url=where),
            )
        finally:
            service.close()
        service.events.add("end", release=classifier.release)


def sentence(entry: dict[str, Any]) -> str:
    """Return an event as people read it."""
    said = {
        "start": "release {release} answers at {url}",
        "swap": "release {version} answers in place of {before}",
        "drift": "the {cause} seems to have changed: see `edgecl-device drift`",
        "drain": "ending: {busy} requests are finished, new ones are refused",
        "end": "ended",
        "error": "a request failed: {error}",
    }
    return said[entry["event"]].format(**entry)
