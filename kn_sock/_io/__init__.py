"""Between a transport and the wire: reading, writing, timers."""
