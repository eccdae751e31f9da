"""Which files are read, as what, and by which reader."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from edgecolbert.content_keys import CODE, MARKDOWN, TEXT

# Files of many documents, which are read one after the other.
JSON_LINES, MAILBOX = "jsonl", "mbox"


@dataclass(frozen=True)
class Format:
    """How files of one kind are read.

    Attributes:
        name: What it is called in metadata, as `format`.
        kind: What its text is: "text", "markdown" or "code".
        reader: The module that reads it.
        package: What has to be installed for it, as it is imported; None for nothing.
        sniffed: Whether it is told by its content, for want of a suffix.
    """

    name: str
    kind: str = TEXT
    reader: str = "plain"
    package: str | None = None
    sniffed: bool = False

    @property
    def isolated(self) -> bool:
        """Whether its reader runs in a process of its own."""
        return self.reader != "plain"


PLAIN = Format("text")
UNNAMED = Format("text", sniffed=True)
MAIL = Format("email", reader="mail")

_DOCUMENTS = {
    Format("text"): ".txt .text .log .rst .adoc .asciidoc .org .tex .srt .vtt",
    Format("markdown", MARKDOWN): ".md .markdown .mdx .qmd .rmd",
    Format("html", MARKDOWN, "html"): ".html .htm .xhtml",
    Format("pdf", TEXT, "pdf", "pypdfium2"): ".pdf",
    Format("docx", MARKDOWN, "docx", "docx"): ".docx",
    Format("epub", MARKDOWN, "epub"): ".epub",
    MAIL: ".eml",
    Format("notebook", MARKDOWN, "notebook"): ".ipynb",
    Format(JSON_LINES): ".jsonl .ndjson",
    Format(MAILBOX, reader="mail"): ".mbox .mbx",
}
_LANGUAGES = {
    "assembly": ".asm .s",
    "c": ".c .h",
    "c++": ".cc .cpp .cxx .hh .hpp .hxx",
    "c#": ".cs",
    "clojure": ".clj .cljs",
    "cmake": ".cmake",
    "css": ".css .less .sass .scss",
    "dart": ".dart",
    "elixir": ".ex .exs",
    "elm": ".elm",
    "erlang": ".erl .hrl",
    "f#": ".fs .fsx",
    "fortran": ".f .f90 .f95 .for",
    "go": ".go",
    "graphql": ".graphql .gql",
    "groovy": ".gradle .groovy",
    "haskell": ".hs",
    "ini": ".cfg .conf .ini .properties",
    "java": ".java",
    "javascript": ".cjs .js .jsx .mjs",
    "julia": ".jl",
    "kotlin": ".kt .kts",
    "lisp": ".el .lisp .scm .rkt",
    "lua": ".lua",
    "make": ".mk",
    "matlab": ".m",
    "nix": ".nix",
    "ocaml": ".ml .mli",
    "pascal": ".pas .pp",
    "perl": ".pl .pm",
    "php": ".php",
    "powershell": ".ps1 .psm1",
    "protobuf": ".proto",
    "python": ".py .pyi .pyw .pyx",
    "r": ".r",
    "ruby": ".rb",
    "rust": ".rs",
    "scala": ".scala .sc",
    "shell": ".bash .fish .sh .zsh",
    "solidity": ".sol",
    "sql": ".sql",
    "swift": ".swift",
    "terraform": ".hcl .tf",
    "toml": ".toml",
    "typescript": ".cts .mts .ts .tsx",
    "vala": ".vala",
    "verilog": ".sv .v .vhd .vhdl",
    "vim": ".vim",
    "visual basic": ".bas .vb",
    "vue": ".svelte .vue",
    "yaml": ".yaml .yml",
    "zig": ".zig",
}
_NAMES = {
    "cmake": "cmakelists.txt",
    "docker": "containerfile dockerfile",
    "make": "gnumakefile justfile makefile",
    "python": "sconscript sconstruct",
    "ruby": "gemfile rakefile vagrantfile",
    "groovy": "jenkinsfile",
}
# Made by programs for programs, though their suffix says otherwise.
_GENERATED = (".min.js", ".min.css", ".bundle.js", ".min.mjs")

_BY_SUFFIX = {suffix: entry for entry, suffixes in _DOCUMENTS.items() for suffix in suffixes.split()}
_BY_SUFFIX |= {
    suffix: Format(language, CODE) for language, suffixes in _LANGUAGES.items() for suffix in suffixes.split()
}
_BY_NAME = {name: Format(language, CODE) for language, names in _NAMES.items() for name in names.split()}


def format_of(name: str) -> Format | None:
    """The format of a file in a folder.

    Args:
        name: Its name, without folders.

    Returns:
        Its format; `UNNAMED` where there is no suffix to tell it by; None for a file that is not read.
    """
    lower = name.lower()
    if lower.endswith(_GENERATED):
        return None
    suffix = suffix_of(lower)
    return _BY_NAME.get(lower) or (_BY_SUFFIX.get(suffix) if suffix else UNNAMED)


def suffix_of(name: str) -> str:
    """The suffix of a name in small letters, with its dot; empty where there is none."""
    suffix = PurePath(name).suffix.lower()
    # "README.first draft" and "meeting 3.4" have none.
    return suffix if len(suffix) > 1 and " " not in suffix and not suffix[1:].isdigit() else ""


def formats() -> dict[str, Format]:
    """Every format by the suffixes that say it."""
    return dict(_BY_SUFFIX)
