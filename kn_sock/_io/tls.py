"""TLS errors, with what to do about them."""

from __future__ import annotations

# What OpenSSL says, or the kind of error, and what to do about it.
_ADVICE = (
    (
        "certificate verify failed",
        "the server's certificate is not trusted, or not for this time; if its authority is your "
        "own, name the authority's certificate with trustRoots=",
    ),
    ("alert unknown ca", "the server does not trust our certificate"),
    ("alert bad certificate", "the server does not take our certificate"),
    ("alert certificate required", "the server wants a certificate of ours"),
    ("alert handshake failure", "the server may want a certificate of ours, or older TLS"),
    ("wrong version number", "does the server speak TLS at this port?"),
    ("packet length too long", "does the server speak TLS at this port?"),
    ("unknown protocol", "does the server speak TLS at this port?"),
    ("VerificationError", "the server's certificate is for another name"),
    ("ConnectionDone", "does the server speak TLS at this port, and does it take our certificate?"),
    ("ConnectionLost", "does the server speak TLS at this port, and does it take our certificate?"),
)


def handshake_problem(problem: BaseException) -> str:
    """Return why a handshake failed, and what to do."""
    kind = type(problem).__name__
    text = _text_of(problem)
    for sign, advice in _ADVICE:
        if sign in text or sign == kind:
            return f"the TLS handshake failed: {text}; {advice}"
    return f"the TLS handshake failed: {text}"


def tls_problem(reason: BaseException | None) -> str | None:
    """Return the error if TLS ended a connection, or ``None``."""
    # By its name: to import the class needs pyOpenSSL, which only TLS needs.
    if reason is None or not type(reason).__module__.startswith("OpenSSL"):
        return None
    return _text_of(reason)


def _text_of(problem: BaseException) -> str:
    """Return the text of an error; OpenSSL's are lists of triples."""
    queue = problem.args[0] if problem.args else None
    if isinstance(queue, list) and queue and isinstance(queue[-1], tuple):
        return "; ".join(str(entry[-1]) for entry in queue if entry)
    return (str(problem) if queue else "") or type(problem).__name__
