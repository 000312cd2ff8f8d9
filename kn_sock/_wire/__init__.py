"""The wire: bytes to events and back. Pure: no I/O, no clock, no threads."""
