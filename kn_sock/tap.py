"""``twistd knsock``: read the command line, build a service, nothing else."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.cred.checkers import FilePasswordDB, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.portal import Portal
from twisted.cred.strcred import AuthOptionMixin
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.endpoints import quoteStringArgument
from twisted.python import usage
from typing_extensions import override

import twisted
from kn_sock._declarations import NO_LIMIT, declarations
from kn_sock._io.clock import use_monotonic_clock
from kn_sock._observe.access_log import open_access_log
from kn_sock._observe.stats import Stats
from kn_sock._server.files import warn_of_readable
from kn_sock._server.listening import kind_of
from kn_sock._server.names import load
from kn_sock._server.signals import Signals
from kn_sock._server.tls import server_options
from kn_sock._serving.tables import served_table
from kn_sock._version import __version__
from kn_sock.auth import IToken, MethodsRealm, TokenFile
from kn_sock.methods.table import MethodTable
from kn_sock.options import ServerOptions
from kn_sock.server import RPCServerService

__all__ = ["Options", "makeService"]

_DEFAULT_PORT = "8080"


def _text_of(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return NO_LIMIT if value is None else f"{value:g}" if isinstance(value, float) else str(value)


_DECLARED = declarations(ServerOptions)

# Every server option that has a text form is an option here, by the same name.
_SERVER_OPTIONS = {name: one for name, one in _DECLARED.items() if one.read is not None}


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _as_bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _in_flags(text: str) -> str:
    """Name options as they are named on the command line."""
    return _OPTION_NAME.sub(lambda found: "--" + _flag(found[0]), text)


def _has_no_tls_of_ours(port: str) -> bool:
    return kind_of(port) in _WITHOUT_OUR_TLS


# What precedes a relative path in the description of an endpoint.
_RELATIVE = re.compile(r"(?:haproxy:)?unix:(?:(?!\w+=)|(?:\w+=[^:]*:)*address=)(?!/)")

_TLS_OPTIONS = ("tls_cert", "tls_key", "tls_client_ca")

_OPTION_NAME = re.compile(rf"\b(?:{'|'.join((*_TLS_OPTIONS, *_SERVER_OPTIONS))})\b")

# Endpoints that are not TCP, or that have their own TLS.
_WITHOUT_OUR_TLS = ("unix", "ssl", "tls")


class Options(usage.Options, AuthOptionMixin):
    """The options of ``twistd knsock``."""

    supportedInterfaces = (IUsernamePassword, IToken)

    synopsis = "--funcs MODULE.NAME [options]"
    longdesc = (
        "Serve Python functions over newline-delimited JSON-RPC. What to serve is the dotted name "
        "of a mapping of functions, of an object with methods, or of a module, found in the "
        "current directory too. Example: twistd -n knsock --port 8080 --funcs mymod.FUNCS"
    )

    optParameters = [  # noqa: RUF012  # read by twisted.python.usage
        ["host", None, "127.0.0.1", "address that a bare port number is bound to"],
        ["tls-cert", None, None, "PEM file with the certificate: TLS on every TCP port"],
        ["tls-key", None, None, "PEM file with its key [default: in the certificate's]"],
        ["tls-client-ca", None, None, "PEM file with the CAs whose clients alone may connect"],
        ["access-log", None, None, _DECLARED["access_log"].help],
        ["metrics", None, None, _DECLARED["metrics"].help.partition("; in Python")[0]],
        *(
            [_flag(name), None, _text_of(getattr(ServerOptions(), name)), declaration.help]
            for name, declaration in _SERVER_OPTIONS.items()
        ),
    ]  # fmt: skip

    optFlags = [  # noqa: RUF012  # read by twisted.python.usage
        ["stats", None, _DECLARED["stats"].help],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["ports"] = []
        self["funcs"] = []
        self["interceptors"] = []

    def opt_port(self, port: str) -> None:
        """Port number, or any Twisted server endpoint. May be repeated. [default: 8080]"""  # noqa: D415  # shown in the help
        self["ports"].append(port)

    def opt_funcs(self, name: str) -> None:
        """What to serve, as mymod.FUNCS; with a prefix, as calc=mymod.CALC. May be repeated."""
        self["funcs"].append(name)

    def opt_interceptor(self, name: str) -> None:
        """Function around each call, as mymod.trace; the first one outermost. May be repeated."""
        self["interceptors"].append(name)

    @override
    def opt_auth(self, description: str) -> None:
        """Who may log in, as file:/etc/knsock.passwd; see --help-auth."""
        super().opt_auth(description)
        checker = self["credCheckers"][-1]
        if any(len(checkers) > 1 for checkers in self["credInterfaces"].values()):
            # A portal asks one checker for each kind, and would forget the others.
            raise usage.UsageError("--auth is there twice for the same kind of login")
        if isinstance(checker, FilePasswordDB):
            # It is read at each login, and twistd leaves this directory when it daemonises.
            checker.filename = os.path.abspath(checker.filename)
            if not os.path.isfile(checker.filename):
                raise usage.UsageError(f"--auth: there is no file {checker.filename}")
            warn_of_readable(checker.filename, "the passwords in")
        if isinstance(checker, TokenFile):
            warn_of_readable(checker.path, "the tokens in")
        # Twisted's "memory" keeps texts, where checkers are asked with bytes.
        if isinstance(checker, InMemoryUsernamePasswordDatabaseDontUse):
            checker.users = {_as_bytes(name): _as_bytes(one) for name, one in checker.users.items()}

    def opt_version(self) -> None:
        """Display the versions of kn_sock and of Twisted, and exit."""
        sys.stdout.write(f"kn_sock {__version__}, Twisted {twisted.__version__}\n")
        raise SystemExit(0)

    opt_p = opt_port
    opt_f = opt_funcs

    @override
    def postOptions(self) -> None:
        if not self["funcs"]:
            raise usage.UsageError("--funcs is required, for example --funcs mymod.FUNCS")
        self["ports"] = self["ports"] or [_DEFAULT_PORT]
        for port in self["ports"]:
            if port.isdigit() and int(port) > 65535:
                raise usage.UsageError(f"--port {port}: a port is at most 65535")
        for name in _TLS_OPTIONS:
            self[name] = self[_flag(name)]
        self._check_tls()
        values = {name: self._value_of(name) for name in _SERVER_OPTIONS}
        try:
            ServerOptions(**values)
        except (TypeError, ValueError) as problem:
            raise usage.UsageError(_in_flags(str(problem))) from None
        self["server_options"] = values

    def _check_tls(self) -> None:
        try:
            options = server_options(*(self[name] for name in _TLS_OPTIONS))
        except ValueError as problem:
            raise usage.UsageError(_in_flags(str(problem))) from None
        except OSError as problem:
            text = f"{problem.strerror}: {problem.filename}"
            raise usage.UsageError(_in_flags(text)) from None
        if options is not None and all(_has_no_tls_of_ours(port) for port in self["ports"]):
            raise usage.UsageError("--tls-cert is for TCP ports, and no --port is one")

    def _value_of(self, name: str) -> Any:
        flag, read = _flag(name), _SERVER_OPTIONS[name].read
        assert read is not None
        try:
            return read(self[flag])
        except ValueError as problem:
            raise usage.UsageError(f"--{flag} {self[flag]}: {problem}") from None


def makeService(options: Options) -> IService:  # twistd looks it up by this name
    """Build the service that twistd runs.

    Raises:
        SystemExit: something that the options name cannot be found or used; the text says what.
            twistd answers a usage error with pages of its own help, which would hide it.
    """
    from twisted.internet import reactor

    use_monotonic_clock(reactor)
    # twistd does not look for modules in the current directory, and leaves it when it daemonises.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        table = _load_table(options)
        portal = None
        if options.get("credCheckers"):
            portal = Portal(MethodsRealm(), options["credCheckers"])
        observing, beside = _observing(options)
        services = [
            _service_for(port, table, portal, observing, options) for port in options["ports"]
        ]
    except usage.UsageError as problem:
        raise SystemExit(f"twistd knsock: {problem}") from None
    except ValueError as problem:
        raise SystemExit(f"twistd knsock: --port {problem}") from None
    for service in services[1:]:
        service.exposure = services[0].exposure
    return CommandLineService(services, beside, options.parent)


def _observing(options: Options) -> tuple[dict[str, Any], list[IService]]:
    """Return the options by which the servers are observed, and the services for that.

    Raises:
        UsageError: something cannot be found, opened or used.
    """
    found: dict[str, Any] = {
        "serve_interceptors": [_interceptor(name) for name in options["interceptors"]]
    }
    if options["stats"]:
        # One for all ports, as for the metrics.
        found["stats"] = Stats()
    try:
        found["access_log"] = open_access_log(options["access-log"])
    except OSError as problem:
        text = f"--access-log {options['access-log']}: {problem.strerror}"
        raise usage.UsageError(text) from None
    if options["metrics"] is None:
        return found, []
    try:
        from kn_sock import metrics
        from kn_sock._observe import prometheus
    except ImportError as problem:
        raise usage.UsageError(f"--metrics: {problem}") from None
    found["metrics"] = prometheus.REGISTRY
    try:
        service = metrics.MetricsService(_metrics_endpoint_of(options["metrics"]))
    except ValueError as problem:
        raise usage.UsageError(f"--metrics {problem}") from None
    return found, [service]


def _interceptor(name: str) -> Any:
    found = load(name, "--interceptor")
    if not callable(found):
        raise usage.UsageError(f"--interceptor {name}: it cannot be called")
    return found


# Kinds of endpoints that look like a host and a port.
_ENDPOINTS = ("fd", "ssl", "systemd", "tcp", "tcp6", "tls", "unix")


def _metrics_endpoint_of(text: str) -> str:
    """Make an endpoint of a port, of a host and a port, or of a description."""
    place = re.fullmatch(r"(?:(\[.+\]|[^:]+):)?(\d+)", text)
    if place is None or place[1] in _ENDPOINTS:
        return _from_here(text)
    return _endpoint_of(place[2], (place[1] or "127.0.0.1").strip("[]"))


def _service_for(
    port: str,
    table: MethodTable,
    portal: Portal | None,
    observing: dict[str, Any],
    options: Options,
) -> RPCServerService:
    tls = {} if _has_no_tls_of_ours(port) else {name: options[name] for name in _TLS_OPTIONS}
    endpoint = _endpoint_of(port, options["host"])
    return RPCServerService(
        endpoint, table, portal=portal, **tls, **observing, **options["server_options"]
    )


def _endpoint_of(port: str, host: str) -> str:
    if not port.isdigit():
        return _from_here(port)
    escaped = host.replace(":", "\\:")
    return f"tcp{'6' if ':' in host else ''}:{port}:interface={escaped}"


def _from_here(endpoint: str) -> str:
    """Make a relative path in an endpoint absolute: twistd changes its directory."""
    found = _RELATIVE.match(endpoint)
    if found is None:
        return endpoint
    # In the form with a name, a path may have "=" in it.
    key = "" if found[0].endswith("=") else "address="
    directory = quoteStringArgument(os.path.join(os.getcwd(), ""))
    return f"{found[0]}{key}{directory}{endpoint[found.end() :]}"


def _load_table(options: Options) -> MethodTable:
    server_options = ServerOptions(**options["server_options"])
    table = MethodTable(forbid_unknown_fields=server_options.forbid_unknown_fields)
    for given in options["funcs"]:
        prefix, _, name = given.rpartition("=")
        try:
            table.add(load(name, "--funcs"), prefix=prefix)
        except (TypeError, ValueError) as problem:
            raise usage.UsageError(f"--funcs {given}: {problem}") from None
    try:
        return served_table(table, server_options)
    except TypeError as problem:
        raise usage.UsageError(f"--strict-annotations: {problem}") from None


class CommandLineService(MultiService):
    """Runs the servers, and reports in one line why they cannot be started.

    Args:
        servers: one for each port.
        beside: other services, which stop after them.
        twistd: the options of twistd itself, or ``None``.
    """

    def __init__(
        self, servers: list[RPCServerService], beside: list[IService], twistd: Any
    ) -> None:
        super().__init__()
        self._twistd = twistd
        self._servers = servers
        self._beside = beside
        for service in (*servers, *beside):
            service.setServiceParent(self)

    @override
    def stopService(self) -> Deferred[None]:
        self.running = False
        # Metrics answer until the calls have ended.
        stopping = DeferredList([maybeDeferred(one.stopService) for one in self._servers])
        return stopping.addCallback(
            lambda _: DeferredList([maybeDeferred(one.stopService) for one in self._beside])
        ).addCallback(lambda _: None)

    @override
    def privilegedStartService(self) -> None:
        if self._twistd is not None:
            from twisted.internet import reactor

            drains_endlessly = self._servers[0].factory.options.drain_timeout is None
            Signals(self._servers, reactor, drains_endlessly=drains_endlessly).install()
        try:
            super().privilegedStartService()
        except OSError as problem:
            if self._twistd is None or not self._twistd.get("nodaemon"):
                # The daemon's parent waits for this, and prints it.
                raise
            # twistd removes its file only after an Exception, which it shows as a traceback.
            pidfile = self._twistd.get("pidfile")
            if pidfile and os.path.exists(pidfile):
                os.unlink(pidfile)
            raise SystemExit(f"twistd knsock: {problem.strerror or problem}") from None
