"""``twistd knsock``: its options, and the command itself."""

from __future__ import annotations

import datetime
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactor
from twisted.python import usage

from kn_sock import ConnectFailed, ConnectionLost, LoginFailed, NotAuthenticated, RPCClient, tap
from kn_sock.server import RPCServerService
from kn_sock.tap import Options, makeService

PATIENCE = 20.0

MODULE = """
import time

def add(a, b):
    return a + b

def wait(seconds):
    time.sleep(seconds)
    return seconds

class Users:
    def create(self, name):
        return {"name": name}

USERS = Users()
FUNCS = {"add": add, "wait": wait}
BAD = {"add": 3}
"""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with modules to serve, which is the current one."""
    (tmp_path / "served.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("import math\nimport there_is_no_such_module\n")
    (tmp_path / "wrong.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("served", "broken", "wrong"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def parsed(*arguments: str) -> Options:
    options = Options()
    options.parseOptions(list(arguments))
    return options


def served_methods(*arguments: str) -> list[str]:
    service: Any = makeService(parsed(*arguments))
    names = [list(each.factory.methods) for each in service]
    assert all(each == names[0] for each in names)
    return names[0]


# --- options --------------------------------------------------------------------------------------


def test_a_mapping_an_object_and_a_module_are_served_with_prefixes() -> None:
    assert served_methods("--funcs", "served.FUNCS") == ["add", "wait"]
    assert served_methods("--funcs", "served") == ["add", "wait"]
    given = ("--funcs", "calc=served.FUNCS", "--funcs", "users=served.USERS")
    assert served_methods(*given) == ["calc.add", "calc.wait", "users.create"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere.FUNCS", ["no module nowhere"]),
        ("served.NOPE", ["served has no NOPE", "FUNCS", "USERS"]),
        ("served.FUNCS.more", ["has no more"]),
        ("served.BAD", ["add", "cannot be called"]),
        ("served.add", ["name"]),
        ("served.Users", ["Users()"]),
        ("broken.FUNCS", ["importing broken failed", "there_is_no_such_module", "line 2"]),
        ("wrong.FUNCS", ["importing wrong failed", "ZeroDivisionError", "line 1"]),
        ("not a name", ["dotted name"]),
        ("served..FUNCS", ["dotted name"]),
        ("", ["dotted name"]),
    ],
)
def test_a_wrong_name_is_one_line_that_says_what_is_wrong(name: str, words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        makeService(parsed("--funcs", name))
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_a_name_served_twice_is_refused() -> None:
    with pytest.raises(SystemExit, match="twice"):
        makeService(parsed("--funcs", "served.FUNCS", "--funcs", "served"))


def test_nothing_to_serve_is_a_usage_error() -> None:
    with pytest.raises(usage.UsageError, match="--funcs"):
        parsed("--port", "8080")


def test_options_reach_the_server() -> None:
    service: Any = makeService(
        parsed(
            *("--funcs", "served.FUNCS", "--max-pending", "7", "--max-line-bytes", "2048"),
            *("--max-batch", "3", "--threads", "0", "--drain-timeout", "none"),
            *("--expose-errors", "no", "--share-tracebacks", "yes", "--framing", "documents"),
        )
    )
    (server,) = service
    options = server.factory.options
    assert (options.max_pending, options.max_line_bytes, options.max_batch) == (7, 2048, 3)
    assert (options.threads, options.drain_timeout) == (0, None)
    assert (options.expose_errors, options.share_tracebacks) == (False, True)
    assert options.framing == "documents"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--max-pending", "many"),
        ("--max-pending", "0"),
        ("--threads", "-1"),
        ("--drain-timeout", "-1"),
        ("--drain-timeout", "soon"),
        ("--expose-errors", "maybe"),
        ("--framing", "line"),
        ("--port", "65536"),
    ],
)
def test_a_wrong_value_is_a_usage_error_that_names_the_option(arguments: tuple[str, str]) -> None:
    with pytest.raises(usage.UsageError) as caught:
        parsed("--funcs", "served.FUNCS", *arguments)
    assert arguments[0].strip("-").replace("-", "_") in str(caught.value).replace("-", "_")


def test_a_wrong_framing_is_a_usage_error_that_names_both() -> None:
    with pytest.raises(usage.UsageError, match="lines or documents, not 'line'"):
        parsed("--funcs", "served.FUNCS", "--framing", "line")


def test_a_wrong_endpoint_is_one_line() -> None:
    with pytest.raises(SystemExit, match="endpoint"):
        makeService(parsed("--funcs", "served.FUNCS", "--port", "nonsense:8080"))


def test_ports_may_be_repeated_and_be_endpoints(tmp_path: Path) -> None:
    given = ("--port", "0", "--port", f"unix:{tmp_path}/socket", "--host", "::1")
    service: Any = makeService(parsed("--funcs", "served.FUNCS", *given))
    assert [type(each) for each in service] == [RPCServerService] * 2


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("unix:app.sock", "{here}/app.sock"),
        ("unix:run/app.sock:mode=600", "{here}/run/app.sock"),
        ("unix:address=app.sock:mode=600", "{here}/app.sock"),
        ("unix:mode=600:address=app.sock", "{here}/app.sock"),
        ("unix:/run/app.sock:mode=600", "/run/app.sock"),
        ("unix:mode=600:address=/run/app.sock", "/run/app.sock"),
        ("haproxy:unix:app.sock", "{here}/app.sock"),
    ],
)
def test_a_relative_unix_socket_is_in_the_directory_of_the_command(
    directory: Path, monkeypatch: pytest.MonkeyPatch, given: str, path: str
) -> None:
    here = directory / "a=b:c"
    here.mkdir()
    monkeypatch.chdir(here)
    reactor = MemoryReactor()
    serverFromString(reactor, tap._from_here(given)).listen(Factory())
    ((found, *_),) = reactor.unixServers
    assert found == path.format(here=here)


@pytest.mark.parametrize("given", ["tcp:80", "systemd:domain=INET:index=0", "haproxy:tcp:80"])
def test_other_endpoints_are_taken_as_they_are(given: str) -> None:
    assert tap._from_here(given) == given


def test_a_relative_unix_socket_for_metrics_is_there_too(directory: Path) -> None:
    assert tap._metrics_endpoint_of("unix:m.sock") == f"unix:address={directory}/m.sock"


# --- who may call ---------------------------------------------------------------------------------


def test_a_checker_makes_callers_log_in() -> None:
    service: Any = makeService(parsed("--funcs", "served.FUNCS", "--auth", "memory:ada:sesame"))
    (only,) = service
    assert only.factory.wants_login
    assert list(only.factory.methods) == ["add", "wait"]
    service = makeService(parsed("--funcs", "served.FUNCS"))
    assert not next(iter(service)).factory.wants_login


def test_two_kinds_of_login_go_together(directory: Path) -> None:
    (directory / "tokens").write_text("sesame bob\n")
    given = ("--auth", "memory:ada:sesame", "--auth", "token:tokens")
    options = parsed("--funcs", "served.FUNCS", *given)
    assert [len(checkers) for checkers in options["credInterfaces"].values()] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--auth", "nothing:of:the:kind"], ["not recognized", "nothing"]),
        (["--auth", "anonymous"], ["not supported"]),
        (["--auth", "memory:ada"], ["U:P"]),
        (["--auth", "file:nowhere"], ["--auth: there is no file", "nowhere"]),
        (["--auth", "memory:a:b", "--auth", "memory:c:d"], ["twice"]),
        (["--auth", "token:nowhere"], ["nowhere", "No such file"]),
        (["--tls-cert", "nowhere.pem"], ["--tls-cert: No such file or directory", "nowhere.pem"]),
        (["--tls-cert", "served.py"], ["--tls-cert: there is no certificate", "served.py"]),
        (["--tls-key", "served.py"], ["--tls-key requires --tls-cert"]),
        (["--tls-client-ca", "served.py"], ["--tls-client-ca requires --tls-cert"]),
        (["--login-timeout", "soon"], ["--login-timeout soon"]),
        (["--login-timeout", "-1"], ["--login-timeout must not be negative"]),
    ],
)
def test_a_wrong_way_of_asking_who_calls_is_a_usage_error(
    arguments: list[str], words: list[str]
) -> None:
    with pytest.raises(usage.UsageError) as caught:
        parsed("--funcs", "served.FUNCS", *arguments)
    for word in words:
        assert word in str(caught.value)


def test_a_password_file_is_found_from_wherever_the_daemon_runs(directory: Path) -> None:
    (directory / "passwords").write_text("ada:sesame\n")
    options = parsed("--funcs", "served.FUNCS", "--auth", "file:passwords")
    assert options["credCheckers"][0].filename == str(directory / "passwords")


def test_the_warning_of_public_ports_is_shared_by_all_of_them() -> None:
    service: Any = makeService(parsed("--funcs", "served.FUNCS", "--port", "0", "--port", "0"))
    first, second = service
    assert first.exposure is second.exposure


@pytest.fixture
def certificate(directory: Path) -> Path:
    """A certificate that signs itself, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - day).not_valid_after(now + day)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    pem = signed.public_bytes(serialization.Encoding.PEM)
    (directory / "trusted").mkdir()
    (directory / "trusted" / "ca.pem").write_bytes(pem)
    forms = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path = directory / "server.pem"
    path.write_bytes(pem + key.private_bytes(serialization.Encoding.PEM, *forms))
    return path


# Twisted's reading of a directory of PEM files asks pyOpenSSL in a way that it deprecates.
@pytest.mark.filterwarnings("ignore:X509.get_")
def test_tls_is_for_tcp_ports_alone(certificate: Path, directory: Path) -> None:
    ports = (
        "--port",
        "0",
        "--port",
        f"unix:{directory}/socket",
        "--port",
        "tcp:0:interface=127.0.0.1",
        "--port",
        "haproxy:tcp:0:interface=127.0.0.1",
        "--port",
        f"haproxy:unix:{directory}/other",
    )
    own = ("--port", f"ssl:0:privateKey={certificate}:interface=127.0.0.1")
    service: Any = makeService(
        parsed("--funcs", "served.FUNCS", "--tls-cert", str(certificate), *ports, *own)
    )
    spoken = [each.factory._around is not None for each in service]
    assert spoken == [True, False, True, True, False, False]
    own = ("--port", f"tls:{directory}/trusted:0:interface=127.0.0.1")
    service = makeService(
        parsed("--funcs", "served.FUNCS", "--tls-cert", str(certificate), *ports[:2], *own)
    )
    assert [each.factory._around is not None for each in service] == [True, False]
    with pytest.raises(usage.UsageError, match="--tls-cert is for TCP ports"):
        parsed("--funcs", "served.FUNCS", "--tls-cert", str(certificate), *ports[2:4], *own)


def test_help_explains_every_option() -> None:
    text = str(Options())
    for name in ("port", "host", "funcs", "max-line-bytes", "max-pending", "max-batch", "threads"):
        assert f"--{name}=" in text
    assert "--drain-timeout=" in text
    for name in ("auth=", "help-auth", "tls-cert=", "tls-key=", "tls-client-ca=", "login-timeout="):
        assert f"--{name}" in text
    assert re.search(r"--framing=\s+how messages of the peer end: lines or\s+documents", text)


# --- the command ----------------------------------------------------------------------------------


class Twistd:
    """twistd in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        top = str(Path(__file__).resolve().parents[2])
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", *arguments],
            env={**os.environ, "PYTHONPATH": top, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A shell's background jobs ignore it, and pass that on.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.lines: list[str] = []

    def line_with(self, pattern: str) -> re.Match[str]:
        """Read the output up to a line that matches."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            found = re.search(pattern, line)
            if found:
                return found
        raise AssertionError(f"no {pattern} in {''.join(self.lines)}")

    def end(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """Send a signal, wait for the end, and give the exit code and all of the output."""
        if number is not None:
            self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, "".join(self.lines) + rest


RunTwistd = Callable[..., Twistd]


@pytest.fixture
def twistd() -> Iterator[RunTwistd]:
    started: list[Twistd] = []

    def run(*arguments: str) -> Twistd:
        started.append(Twistd(*arguments))
        return started[-1]

    yield run
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.communicate()


SERVES = r"serving add, wait on 127\.0\.0\.1:(\d+)"


def line_from_a_socket(port: int) -> Any:
    """Send a call as ``nc -N`` does, and give all that comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as line:
        line.sendall(b'{"jsonrpc": "2.0", "id": 1, "method": "add", "params": [1, 2]}\n')
        line.shutdown(socket.SHUT_WR)
        return json.loads(b"".join(iter(lambda: line.recv(4096), b"")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_module_of_the_current_directory_is_served_until_a_signal(
    twistd: RunTwistd, number: signal.Signals
) -> None:
    server = twistd("-n", "knsock", "--port", "0", "--funcs", "served.FUNCS")
    port = int(server.line_with(SERVES)[1])
    with RPCClient("localhost", port) as client:
        assert client.call("add", 1, 2) == 3
    assert line_from_a_socket(port) == {"jsonrpc": "2.0", "id": 1, "result": 3}
    code, output = server.end(number)
    assert code in (0, -number)
    assert "Traceback" not in output


def test_a_relative_unix_socket_is_not_in_the_directory_that_twistd_changes_to(
    twistd: RunTwistd, directory: Path
) -> None:
    (directory / "run").mkdir()
    given = ("--port", "unix:app.sock:mode=600", "--funcs", "served.FUNCS")
    server = twistd("-n", "--rundir=run", "knsock", *given)
    assert server.line_with(r"serving add, wait on (\S+)")[1] == f"{directory}/app.sock"
    with RPCClient.from_endpoint("unix:app.sock") as client:
        assert client.call("add", 1, 2) == 3
    server.end(signal.SIGINT)


def test_a_signal_drains_the_calls_under_way(twistd: RunTwistd) -> None:
    server = twistd("-n", "knsock", "--port", "0", "--funcs", "served.FUNCS")
    port = int(server.line_with(SERVES)[1])
    with RPCClient("localhost", port) as client:
        waiting = client.submit("wait", 0.3)
        client.call("rpc.ping")
        server.process.send_signal(signal.SIGINT)
        assert waiting.result(PATIENCE) == 0.3
        server.end()


PASSWORD = ("ada", "correct horse")


@pytest.mark.parametrize(
    ("kinds", "secrets"),
    [
        (["memory:ada:correct horse"], [PASSWORD]),
        (["file:passwords", "token:tokens"], [PASSWORD, "correct-horse"]),
    ],
)
def test_callers_log_in(
    twistd: RunTwistd, directory: Path, kinds: list[str], secrets: list[Any]
) -> None:
    (directory / "passwords").write_text("ada:correct horse\n")
    (directory / "tokens").write_text("# token, then whose it is\n\ncorrect-horse ada\n")
    given = [argument for kind in kinds for argument in ("--auth", kind)]
    server = twistd("-n", "knsock", "--port", "0", "--funcs", "served.FUNCS", *given)
    port = int(server.line_with(SERVES)[1])
    with RPCClient("localhost", port) as client:
        assert client.call("rpc.ping") == "pong"
        with pytest.raises(NotAuthenticated, match="credentials="):
            client.call("add", 1, 2)
    with pytest.raises(LoginFailed):
        RPCClient("localhost", port, credentials=("ada", "battery staple"))
    for secret in secrets:
        with RPCClient("localhost", port, credentials=secret) as client:
            assert client.call("add", 1, 2) == 3
    _, output = server.end(signal.SIGINT)
    assert "login as 'ada' refused (try 1 of 3)" in output
    assert output.count("logged in as 'ada'") == len(secrets)
    assert "battery" not in output
    assert "horse" not in output


def test_a_port_speaks_tls_and_asks_for_certificates(
    twistd: RunTwistd, certificate: Path, directory: Path
) -> None:
    server = twistd(
        *("-n", "knsock", "--port", "0", "--funcs", "served.FUNCS"),
        *("--tls-cert", str(certificate), "--tls-client-ca", str(certificate)),
    )
    port = int(server.line_with(SERVES)[1])
    endpoint = f"tls:localhost:{port}:trustRoots={directory}/trusted"
    with RPCClient.from_endpoint(f"{endpoint}:certificate={certificate}") as client:
        assert client.call("add", 1, 2) == 3
    with pytest.raises((ConnectFailed, ConnectionLost)):
        RPCClient.from_endpoint(endpoint).call("add", 1, 2)
    _, output = server.end(signal.SIGINT)
    assert "TLS failed" in output
    assert "Traceback" not in output


def test_the_kinds_of_login_are_listed(twistd: RunTwistd, monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = twistd("-n", "knsock", "--help-auth").end()
    assert code == 0
    for kind in ("file", "memory", "token"):
        assert re.search(rf"^  {kind}\b", output, re.MULTILINE)
    assert "anonymous" not in output
    said = io.StringIO()
    monkeypatch.setattr(Options, "authOutput", said)
    with pytest.raises(SystemExit) as caught:
        parsed("--help-auth-type", "token")
    assert not caught.value.code
    assert "one token a line" in said.getvalue()


@pytest.fixture
def port_in_use() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_a_port_in_use_is_one_line_and_no_traceback(
    twistd: RunTwistd, port_in_use: int, directory: Path
) -> None:
    code, output = twistd(
        "-n", "knsock", "--port", str(port_in_use), "--funcs", "served.FUNCS"
    ).end()
    assert code == 1
    assert output.count(f"cannot listen on 127.0.0.1:{port_in_use}: Address already in use") == 1
    assert "Traceback" not in output
    assert not (directory / "twistd.pid").exists()


def test_a_wrong_name_ends_the_command_with_one_line(twistd: RunTwistd) -> None:
    code, output = twistd("-n", "knsock", "--funcs", "served.NOPE").end()
    assert code == 1
    (line,) = output.splitlines()
    assert line.startswith("twistd knsock: --funcs served.NOPE: served has no NOPE")


def test_it_works_as_a_daemon(twistd: RunTwistd, directory: Path) -> None:
    (directory / "rundir").mkdir()
    code, output = twistd(
        *("--rundir", "rundir", "--logfile", "the.log", "--pidfile", str(directory / "the.pid")),
        *("knsock", "--port", f"unix:{directory}/socket", "--funcs", "served.FUNCS"),
    ).end()
    assert (code, output) == (0, "")
    pid = int((directory / "the.pid").read_text())
    try:
        with RPCClient.from_endpoint(f"unix:{directory}/socket") as client:
            assert client.call("add", 1, 2) == 3
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_for_end(pid)
    log = (directory / "the.log").read_text()
    assert "serving add, wait" in log
    assert "Traceback" not in log
    assert not (directory / "the.pid").exists()


def wait_for_end(pid: int) -> None:
    """Wait for a process that is not a child."""
    handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    if handle is None:
        return
    import select

    ended, _, _ = select.select([handle], [], [], PATIENCE)
    os.close(handle)
    assert ended


def test_a_daemon_that_cannot_listen_says_so(twistd: RunTwistd, port_in_use: int) -> None:
    code, output = twistd(
        *("--logfile", "the.log", "knsock", "--port", str(port_in_use)),
        *("--funcs", "served.FUNCS"),
    ).end()
    assert code == 1
    assert "cannot listen" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("plugin", ["kn_sock_plugin", "kn_sock_token_plugin"])
def test_a_plugin_imports_nothing_of_kn_sock(plugin: str) -> None:
    """Every twistd command imports it, whatever it is going to run."""
    top = str(Path(__file__).resolve().parents[2])
    code = (
        f"import sys; import twisted.plugins.{plugin}; "
        "print([name for name in sys.modules if name.startswith('kn_sock')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": top},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("flag", "text", "complaint"),
    [
        ("--max-pending", "0", "--max-pending must be at least 1, not 0"),
        ("--max-pending", "many", "--max-pending many: must be a whole number"),
        (
            "--max-connections",
            "x",
            "--max-connections x: must be a whole number, or none for no limit",
        ),
        (
            "--send-timeout",
            "soon",
            "--send-timeout soon: must be a number of seconds, or none for no limit",
        ),
        ("--framing", "words", "--framing must be lines or documents, not 'words'"),
    ],
)
def test_a_value_out_of_range_is_refused_by_the_name_of_the_flag(
    flag: str, text: str, complaint: str
) -> None:
    with pytest.raises(usage.UsageError) as caught:
        Options().parseOptions(["--funcs", "mymod.FUNCS", flag, text])
    assert str(caught.value) == complaint
