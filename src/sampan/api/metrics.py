"""Prometheus metrics: GET /metrics on an address of its own, without the API's power."""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable

from sampan.api.http import MAX_METRICS_CLIENTS, HttpServer
from sampan.api.messages import AnyResponse, Request, Response, Route
from sampan.api.router import Router
from sampan.engine.metrics import CONTENT_TYPE, Metrics

Dispatch = Callable[[Request], Awaitable[AnyResponse]]


async def page(metrics: Metrics, request: Request) -> Response:
    return Response(200, await metrics.page(), content_type=CONTENT_TYPE)


_ROUTES = (Route("GET", "/metrics", page),)


class MetricsServer:
    """Serves the page, and times the API's requests for it."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._router = Router(_ROUTES)
        self._server = HttpServer(self._dispatch, MAX_METRICS_CLIENTS)

    def timed_dispatch(self, dispatch: Dispatch) -> Dispatch:
        async def timed(request: Request) -> AnyResponse:
            begin = time.perf_counter()
            answer = await dispatch(request)
            # 304: what was asked for was so already.
            if not isinstance(answer, Response) or answer.status < 300:
                self._metrics.done(request.method, request.path, time.perf_counter() - begin)
            return answer

        return timed

    async def listen(self, sock: socket.socket) -> None:
        await self._server.listen(sock)

    async def close(self) -> None:
        await self._server.close()

    async def _dispatch(self, request: Request) -> AnyResponse:
        handler, request.match = self._router.resolve(request.method, request.path)
        return await handler(self._metrics, request)
