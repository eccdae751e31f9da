"""The local app: a search page and a small JSON API on this machine's loopback address (docs/serve.md).

Needs the extra `edgecolbert[serve]`, but only to run: no module of it is imported with these.
"""
