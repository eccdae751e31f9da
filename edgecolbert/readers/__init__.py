"""Reading files: which formats there are, one small module for each, and the folder they lie in (docs/folders.md).

A reader takes the bytes of one file and gives a `Parsed`; it opens nothing and knows no index. Readers of formats that
have a structure of their own run in a process of their own (`isolation`), which may be ended when it takes too long.
"""
