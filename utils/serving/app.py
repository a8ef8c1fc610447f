"""The ASGI application: routes to the interfaces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from utils.serving import inference_api, predict_api
from utils.serving.gate import Gate, refusal_response
from utils.serving.openapi import document
from utils.serving.refusal import Refusal
from utils.serving.service import Service

PAGE = Path(__file__).with_name("page.html")
# The page is self-contained and connects only to this server.
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

Answer = Callable[[Request], Awaitable[Response]]


def build_app(service: Service, key: str = "") -> Starlette:
    """The application around a service; `key` is the key that requests need, empty for none."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        watch = asyncio.create_task(service.repository.watch())
        try:
            yield
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
            service.decoders.close()

    return Starlette(
        routes=_routes(service),
        middleware=[Middleware(Gate, limits=service.limits, metrics=service.metrics, key=key)],
        exception_handlers={
            Refusal: _refuse,
            HTTPException: _refuse_by_status,
            ClientDisconnect: _refuse_disconnected,
            Exception: _refuse_failed,
        },
        lifespan=lifespan,
    )


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return refusal_response(request.url.path, error.status, error.sentence, error.headers)


async def _refuse_by_status(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentences = {404: "there is nothing at this address: GET /openapi.json lists the addresses"}
    sentence = sentences.get(error.status_code, f"{error.detail}: GET /openapi.json describes the requests")
    return refusal_response(request.url.path, error.status_code, sentence, dict(error.headers or {}))


async def _refuse_disconnected(request: Request, _: Exception) -> Response:
    return refusal_response(request.url.path, 400, "the request ended before it was complete")


async def _refuse_failed(request: Request, _: Exception) -> Response:
    return refusal_response(request.url.path, 500, "the server failed on this request: see its log")


def _route(path: str, endpoint: Answer, method: str = "GET") -> Route:
    return Route(path, endpoint, methods=[method])


def _routes(service: Service) -> list[Route]:
    """The routes; the names of their functions are the labels of the metrics."""
    page = PAGE.read_text(encoding="utf-8")

    async def show_page(_: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY, "X-Content-Type-Options": "nosniff"})

    async def health(_: Request) -> Response:
        versions = {name: served.version for name, served in service.repository.served.items()}
        return JSONResponse({"status": "ok", "models": versions})

    async def metrics(_: Request) -> Response:
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(_: Request) -> Response:
        return JSONResponse(document(service.limits, sorted(service.repository.served)))

    async def predict(request: Request) -> Response:
        return await predict_api.predict(request, service)

    return [
        _route("/", show_page),
        _route("/health", health),
        _route("/metrics", metrics),
        _route("/openapi.json", openapi),
        _route("/predict", predict, "POST"),
        _route("/predict/{model}", predict, "POST"),
        *_inference_routes(service),
    ]


def _inference_routes(service: Service) -> list[Route]:
    """The routes of the Open Inference Protocol."""

    async def live(_: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(_: Request) -> Response:
        return JSONResponse({"ready": True})

    async def server_metadata(_: Request) -> Response:
        extensions = ["binary_tensor_data", "classification"]
        return JSONResponse({"name": inference_api.PLATFORM, "version": "1", "extensions": extensions})

    async def model_metadata(request: Request) -> Response:
        return JSONResponse(inference_api.metadata(inference_api.find(request, service)))

    async def model_ready(request: Request) -> Response:
        return JSONResponse({"name": inference_api.find(request, service).name, "ready": True})

    async def model_infer(request: Request) -> Response:
        return await inference_api.infer(request, service)

    async def repository_index(_: Request) -> Response:
        models = service.repository.served.values()
        return JSONResponse(
            [{"name": m.name, "version": str(m.version), "state": "READY", "reason": ""} for m in models]
        )

    routes = [
        _route("/v2", server_metadata),
        _route("/v2/health/live", live),
        _route("/v2/health/ready", ready),
        _route("/v2/repository/index", repository_index, "POST"),
    ]
    for version in ("", "/versions/{version}"):
        path = f"/v2/models/{{model}}{version}"
        routes += [
            _route(path, model_metadata),
            _route(f"{path}/ready", model_ready),
            _route(f"{path}/infer", model_infer, "POST"),
        ]
    return routes
