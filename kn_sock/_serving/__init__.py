"""The calls that the peer makes."""
