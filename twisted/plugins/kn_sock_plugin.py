"""``twistd knsock``. Every run of twistd imports this, so that it imports nothing of kn_sock."""

from twisted.application.service import ServiceMaker

knsock = ServiceMaker(
    "kn_sock",
    "kn_sock.tap",
    "Serve Python functions over newline-delimited JSON-RPC.",
    "knsock",
)
