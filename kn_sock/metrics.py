"""Metrics over HTTP for Prometheus: a page, and a service that serves it.

Needs ``prometheus_client``: ``pip install prometheus_client``.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import pages
from twisted.web.resource import Resource
from twisted.web.server import Request, Site
from typing_extensions import override

from kn_sock._io.transport import address_text
from kn_sock._observe.prometheus import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    generate_latest,
)
from kn_sock._server.listening import as_os_error, endpoint_for

__all__ = ["MetricsResource", "MetricsService"]

log = Logger()

# For a client that keeps its connection without asking again.
_IDLE_SECONDS = 30


class MetricsResource(Resource):
    """Shows what is in a registry, in the format that Prometheus reads.

    Args:
        registry: which; by default the one of the process.

    The metrics are read on the reactor's thread, as they are counted.
    """

    isLeaf = True  # noqa: N815  # twisted.web looks it up

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        super().__init__()
        self._registry = registry

    def render_GET(self, request: Request) -> bytes:  # noqa: N802  # twisted.web looks it up
        """Answer a request."""
        request.setHeader("content-type", CONTENT_TYPE_LATEST)
        return generate_latest(self._registry)


class Root(Resource):
    """Has its children, and nothing else."""

    @override
    def getChild(self, path: bytes, request: Request) -> Resource:
        return cast(Resource, pages.notFound())


class QuietSite(Site):
    """A site that writes no line into the log for each time that it is asked."""

    noisy = False
    displayTracebacks = False  # noqa: N815  # likewise

    @override
    def log(self, request: Any) -> None:
        """Nothing."""


class MetricsService(Service):
    """Serves ``/metrics`` over HTTP.

    Args:
        endpoint: where to listen: a Twisted server endpoint, or its description. There is no login:
            anybody who can connect may scrape.
        registry: what is shown; by default the registry of the process.
        reactor: the reactor; by default the global one.
    """

    def __init__(
        self,
        endpoint: IStreamServerEndpoint | str,
        registry: CollectorRegistry = REGISTRY,
        *,
        reactor: Any = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        self._endpoint = endpoint_for(endpoint, reactor)
        root = Root()
        root.putChild(b"metrics", MetricsResource(registry))
        self._site = QuietSite(root, timeout=_IDLE_SECONDS, reactor=reactor)
        self._is_listening = False
        #: The port, while it listens.
        self.port: IListeningPort | None = None

    def listen(self) -> Deferred[IListeningPort]:
        """Begin to listen. Starting the service does it too.

        Returns:
            A Deferred that fires with the port, or fails with ``OSError``.
        """
        self._is_listening = True
        listening = maybeDeferred(self._endpoint.listen, self._site)
        return listening.addCallbacks(self._listens, as_os_error)

    def _listens(self, port: IListeningPort) -> IListeningPort:
        self.port = port
        log.info("metrics on http://{address}/metrics", address=address_text(port.getHost()))
        return port

    @override
    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        self._listen_or_raise()

    @override
    def startService(self) -> None:
        super().startService()
        if not self._is_listening:
            self._listen_or_raise()

    def _listen_or_raise(self) -> None:
        problems: list[Failure] = []
        self.listen().addErrback(problems.append)
        if problems:
            problems[0].raiseException()

    @override
    def stopService(self) -> Deferred[None]:
        super().stopService()
        port, self.port, self._is_listening = self.port, None, False
        stopped = maybeDeferred(port.stopListening) if port is not None else succeed(None)
        return stopped.addCallback(lambda _: None)
