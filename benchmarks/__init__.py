"""Measures kn_sock against a bare server and against other libraries; see ``README.rst`` here."""
