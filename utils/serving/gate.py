"""Checks every request: the key and the limits; counts it."""

from __future__ import annotations

import hmac
from time import perf_counter
from typing import Any

import anyio
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from utils.serving.metrics import Metrics
from utils.serving.refusal import Limits, Refusal, try_again

# Seconds for which the rest of a refused request is still received, so that its sender can read the answer instead of
# finding a closed connection.
LINGER = 2.0
# Addresses without a key: the page, which reveals nothing, and the health checks.
OPEN = frozenset({"/", "/health", "/v2/health/live", "/v2/health/ready"})


def refusal_response(path: str, status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    """The answer to a refused request; clients of hub serving read its `msg`."""
    values: dict[str, Any] = {"error": sentence}
    if path.startswith("/predict"):
        values |= {"msg": sentence, "results": "", "status": str(status)}
    return JSONResponse(values, status, headers)


class _Body:
    """The body of a request, with limits on size and time."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self._deadline = perf_counter() + limits.seconds
        self.length = 0
        self.complete = False

    async def receive(self) -> Message:
        """The next part; raises `Refusal`."""
        if self.complete:
            return await self._receive()
        try:
            with anyio.fail_after(max(0.0, self._deadline - perf_counter())):
                message = await self._receive()
        except TimeoutError:
            raise Refusal(408, f"the request did not arrive within {self._limits.seconds:g} seconds") from None
        self.complete = message["type"] != "http.request" or not message.get("more_body", False)
        self.length += len(message.get("body", b""))
        self._limits.check_body(self.length)
        return message

    async def discard(self) -> None:
        """Receives the rest of a request, up to the limits."""
        with anyio.move_on_after(LINGER):
            while not self.complete and self.length < 4 * self._limits.body:
                message = await self._receive()
                self.complete = message["type"] != "http.request" or not message.get("more_body", False)
                self.length += len(message.get("body", b""))


class Gate:
    """ASGI middleware.

    Args:
        app: the wrapped application.
        limits: the limits of a request.
        metrics: counts the requests.
        key: the key that a request needs, as `Authorization: Bearer KEY` or `X-API-Key: KEY`; empty: none.
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics, key: str) -> None:
        self._app, self._limits, self._metrics, self._key = app, limits, metrics, key
        self._answering = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = perf_counter(), 500
        body = _Body(receive, self._limits)
        counted = scope["method"] == "POST"

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if status >= 400:
                    await body.discard()
            await send(message)

        self._answering += counted
        self._metrics.in_progress.set(self._answering)
        try:
            self._admit(scope, counted)
            await self._app(scope, body.receive, send_noted)
        except Refusal as error:
            response = refusal_response(scope["path"], error.status, error.sentence, error.headers)
            await response(scope, receive, send_noted)
        finally:
            self._answering -= counted
            self._metrics.in_progress.set(self._answering)
            route = getattr(scope.get("endpoint"), "__name__", "none")
            self._metrics.requests.labels(route, status).inc()
            self._metrics.seconds.labels(route).observe(perf_counter() - start)

    def _admit(self, scope: Scope, counted: bool) -> None:
        """Raises `Refusal` for a request that is not admitted."""
        headers = Headers(scope=scope)
        if self._key and scope["path"] not in OPEN:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            given = given.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
            if not hmac.compare_digest(given.encode(), self._key.encode()):
                raise Refusal(
                    401, "the key is missing or wrong: send Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}
                )
        if counted and self._answering > self._limits.requests:
            raise try_again(429, f"the server is already answering {self._limits.requests} requests: try again later")
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdecimal():
            self._limits.check_body(int(length[:20]))
