"""How gRPC's messages are written here: a list of arguments, and a result, in msgpack."""

from __future__ import annotations

import msgspec

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder().decode
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
