"""The paths of the server.

Every answer but metrics and events is JSON, or JSON and tensors. An error has the key `error`:
what must hold, what was found and what to do.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Set

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import edgecl_deploy
from edgecl_deploy.errors import DeployError, RequestError, one_line, shown
from edgecl_deploy.manifest.canonical import load_object
from edgecl_deploy.manifest.fields import Fields
from edgecl_deploy.server import limits, metrics, oip
from edgecl_deploy.server.binary import HEADER
from edgecl_deploy.server.guard import Guard, Rights, read_body
from edgecl_deploy.server.page import HEADERS, START, Page
from edgecl_deploy.server.service import Call, Service, index, wanted_release

NAME = "edgecl"
RELEASE = "X-Edgecl-Release"
ENROLLED = "/edgecl/v1/enrolled"
JSON = "application/json"
_MANAGE = "Publish a release on the channel; the server takes it by itself."
_OPEN = ("/v2/health/live", "/v2/health/ready")  # a probe has no token
_LOADS = 10.0  # seconds that `load` waits for a release
_LOOKS = 0.1  # seconds between two looks
_QUIET = 15.0  # seconds until a stream of events proves that it is there

Handler = Callable[[Request], Awaitable[Response]]


def make_app(service: Service, guard: Guard, page: Page | None = None) -> ASGIApp:
    """Return the server as an ASGI application.

    Args:
        service: What answers.
        guard: What is asked of callers.
        page: The files of its page, by name; None without one.
    """
    paths = _Paths(service)
    named = "/models/{model}"
    routes = [
        Route("/v2", paths.server),
        Route("/v2/health/live", paths.live),
        Route("/v2/health/ready", paths.ready),
        Route("/v2/models/stats", paths.statistics),
        Route("/v2/repository/index", paths.index, methods=["POST"]),
        Route("/v2/repository" + named + "/load", paths.load, methods=["POST"]),
        Route("/v2/repository" + named + "/unload", paths.unload, methods=["POST"]),
        Route("/edgecl/v1/status", paths.status),
        Route("/edgecl/v1/drift", paths.drift),
        Route(ENROLLED, paths.enrolled),
        Route(ENROLLED, paths.enrol, methods=["POST"]),
        Route(ENROLLED + "/{name:path}", paths.unenrol, methods=["DELETE"]),
        Route("/edgecl/v1/events", paths.events),
        Route("/metrics", paths.metrics),
    ]
    for start in ("/v2" + named, "/v2" + named + "/versions/{version}"):
        routes += [
            Route(start, paths.metadata),
            Route(f"{start}/ready", paths.model_ready),
            Route(f"{start}/config", paths.configuration),
            Route(f"{start}/stats", paths.statistics),
            Route(f"{start}/infer", paths.infer, methods=["POST"]),
        ]
    files = {} if page is None else {"/": page[START], **{f"/page/{k}": v for k, v in page.items()}}
    routes += [Route(path, _file(*each)) for path, each in files.items()]
    return _Guarded(Router(routes, redirect_slashes=False), guard, service, {*_OPEN, *files})


def _file(data: bytes, kind: str) -> Handler:
    """Return what answers with a file of the page."""

    async def answer(_: Request) -> Response:
        return Response(data, 200, HEADERS, media_type=kind)

    return answer


def error_response(error: RequestError) -> Response:
    """Return the answer to a request that is refused."""
    text = f"{error.must}; found {error.found}. {error.action}".rstrip()
    headers = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 503:
        headers["Retry-After"] = str(limits.RETRY_SECONDS)
    if error.status == 408:
        headers["Connection"] = "close"  # the rest of the body may never come
    return _json({"error": text}, error.status, headers)


def _check_may_enrol(request: Request) -> None:
    """Check that a caller may change the classes of this device.

    Raises:
        RequestError: It may not.
    """
    if request.scope["rights"] < Rights.ENROL:
        raise RequestError(
            403,
            "classes of this device must be changed with the token enrol, or on its page",
            "less",
            "Start the server with --page, or with a line `enrol TOKEN` in --token-file.",
        )


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(oip.to_json(value), status, headers, media_type=JSON)


class _Guarded:
    """Checks who asks before anything else, and turns errors into answers."""

    def __init__(self, app: ASGIApp, guard: Guard, service: Service, free: Set[str]) -> None:
        self._app, self._guard, self._service = app, guard, service
        self._free = free  # paths that are there for everyone: they need no token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if not scope["path"].startswith(ENROLLED + "/"):  # where it ends in the name of a class
            scope["path"] = scope["path"].rstrip("/") or "/"
        scope["app"] = self  # a router raises what it does not find only inside of something
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, noted)
        except ClientDisconnect:
            self._service.metrics.refused(408)
        except Exception as error:  # whatever it is, the caller gets an answer and the log a line
            if begun:
                raise
            await self._refuse(error)(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = {key: value.decode("latin-1") for key, value in scope["headers"]}
        self._guard.check_host(headers.get(b"host"))
        public = scope["path"] in self._free
        self._guard.check_site(scope["method"], headers, public)
        if not public:
            scope["rights"] = self._guard.rights(headers.get(b"authorization"))

    def _refuse(self, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error = RequestError(
                error.status_code, "a request must be for a path of this server", error.detail,
                "GET /v2 describes it.",
            )  # fmt: skip
        elif not isinstance(error, RequestError):
            self._service.events.add(
                "error", error=type(error).__name__, log={"error": one_line(error)}
            )
            error = RequestError(
                500, "a request must be answered", type(error).__name__, "Read the server's log."
            )
        self._service.metrics.refused(error.status)
        return error_response(error)


class _Paths:
    """What each path does."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def server(self, _: Request) -> Response:
        return _json({
            "name": NAME,
            "version": edgecl_deploy.__version__,
            "extensions": list(oip.EXTENSIONS),
        })

    async def live(self, _: Request) -> Response:
        return _json({"live": True})

    async def ready(self, _: Request) -> Response:
        self._service.check_taking()
        return _json({"ready": True, "live": True})

    async def metadata(self, request: Request) -> Response:
        return _json(oip.metadata(self._model(request), self._service.answering))

    async def model_ready(self, request: Request) -> Response:
        model = self._model(request)
        self._service.check_taking()
        return _json({"name": model.name, "ready": True})

    async def configuration(self, request: Request) -> Response:
        return _json(oip.configuration(self._model(request), self._service.answering))

    async def statistics(self, request: Request) -> Response:
        service = self._service
        name = self._model(request).name if "model" in request.path_params else oip.FILES.name
        counts = service.metrics.statistics()
        version = oip.version(service.answering)
        return _json({"model_stats": [{"name": name, "version": version, **counts}]})

    async def infer(self, request: Request) -> Response:
        service, begin, status = self._service, time.perf_counter(), 500
        try:
            headers = request.headers
            kind = headers.get("content-type", "").lower()
            with service.working(), service.held.share() as held:
                model = self._model(request)
                call = Call(
                    model,
                    await read_body(request, held),
                    headers.get("content-encoding", "").strip().lower(),
                    headers.get(HEADER),
                    kind.startswith("image/") and model is oip.FILES,
                    request.scope["rights"],
                    request.path_params.get("version"),
                )
                answer = await service.infer(call)
            status = 200
        except RequestError as error:
            status = error.status
            raise
        finally:
            service.metrics.ended(status, time.perf_counter() - begin)
        own = {RELEASE: answer.release}
        if answer.head is None:
            return Response(answer.body, 200, own, media_type=JSON)
        own[HEADER] = str(answer.head)
        return Response(answer.body, 200, own, media_type="application/octet-stream")

    async def index(self, request: Request) -> Response:
        """Return the releases on the device.

        Raises:
            RequestError: `ready` is no flag.
        """
        fields = await self._document(request)
        ready = fields.peek("ready") if fields.has("ready") else False
        if not isinstance(ready, bool):
            raise RequestError(400, "ready must be true or false", shown(ready), "Leave it out.")
        classifier = self._service.classifier
        found = await asyncio.to_thread(index, classifier, self._service.answering)
        return _json([each for each in found if each["state"] == "READY" or not ready])

    async def load(self, request: Request) -> Response:
        """Wait until the release that the store names answers.

        Raises:
            RequestError: It fails, or the request has parameters: nothing is loaded from elsewhere.
        """
        model = self._model(request)
        fields = await self._document(request)
        if fields.peek("parameters"):
            raise RequestError(
                400, "a load must be one without parameters", "some", "Leave them out. " + _MANAGE
            )
        classifier, end = self._service.classifier, time.monotonic() + _LOADS
        while (wanted := await asyncio.to_thread(wanted_release, classifier)) is not None:
            if wanted == classifier.release:
                break
            if time.monotonic() > end:
                raise RequestError(
                    400,
                    f"release {wanted} must load",
                    f"that it did not, and that release {classifier.release} goes on answering",
                    "`edgecl-device status` on the device has the reason.",
                )
            await asyncio.sleep(_LOOKS)
        return _json({"name": model.name, "version": oip.version(self._service.answering)})

    async def unload(self, request: Request) -> Response:
        self._model(request)
        raise RequestError(400, "a model must stay loaded", "an unload", _MANAGE)

    async def status(self, request: Request) -> Response:
        rights: Rights = request.scope["rights"]
        return _json({**self._service.status(), "rights": rights.name.lower()})

    async def drift(self, _: Request) -> Response:
        return _json(self._service.drift())

    async def enrolled(self, _: Request) -> Response:
        return _json(self._service.enrolled())

    async def enrol(self, request: Request) -> Response:
        _check_may_enrol(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != JSON:  # which no form of another site can send
            raise RequestError(
                415, f"a class must be sent as {JSON}", shown(kind), f"Send Content-Type: {JSON}."
            )
        service = self._service
        with service.held.share() as held:
            body = await read_body(request, held)
            encoding = request.headers.get("content-encoding", "").strip().lower()
            return _json(await service.enrol(body, encoding))

    async def unenrol(self, request: Request) -> Response:
        _check_may_enrol(request)
        purge = request.query_params.get("purge", "false")
        if purge not in {"true", "false"}:
            raise RequestError(400, "purge must be true or false", shown(purge), "Leave it out.")
        return _json(await self._service.unenrol(request.path_params["name"], purge == "true"))

    async def metrics(self, _: Request) -> Response:
        text = await asyncio.to_thread(self._service.metrics.text)
        return Response(text, media_type=metrics.CONTENT_TYPE)

    async def events(self, request: Request) -> Response:
        after = self._service.events.resumed(request.headers.get("last-event-id", ""))
        share = self._service.listeners.share()
        place = share.__enter__()
        try:
            place.grow(1)
        except RequestError:
            share.__exit__(None, None, None)
            raise
        stream = self._stream(after)

        async def listened() -> AsyncIterator[str]:
            try:
                async for each in stream:
                    yield each
            finally:
                share.__exit__(None, None, None)

        headers = {"Cache-Control": "no-store"}
        return StreamingResponse(listened(), 200, headers, media_type="text/event-stream")

    async def _stream(self, after: int) -> AsyncIterator[str]:
        """Yield the events after one, until the server ends or the caller leaves."""
        quiet = time.monotonic()
        yield ": events of edgecl\n\n"
        while True:
            ends = self._service.draining
            for number, entry in self._service.events.after(after):
                after, quiet = number, time.monotonic()
                yield self._service.events.sent(number, entry)
            if ends:
                return
            if time.monotonic() - quiet > _QUIET:
                quiet = time.monotonic()
                yield ": still here\n\n"
            await asyncio.sleep(_LOOKS)

    def _model(self, request: Request) -> oip.Model:
        found = request.path_params
        return self._service.model(found["model"], found.get("version"))

    async def _document(self, request: Request) -> Fields:
        """Return the JSON object of a request that may have none.

        Raises:
            RequestError: It has something else.
        """
        with self._service.held.share() as held:
            body = await read_body(request, held)
        try:
            return Fields(
                load_object(body.strip() or b"{}", "a request", limits.MAX_HEAD), "request"
            )
        except DeployError as error:
            raise RequestError(400, error.must, error.found, "Send {} or nothing.") from error
