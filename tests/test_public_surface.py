"""What the package promises to importers: its names, and what importing it does not do."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import edgecolbert
from edgecolbert import errors

PACKAGE = Path(edgecolbert.__file__).parent
# What a framework is needed for; these classes are of its classes, so importing the module imports it.
DOORS = {
    "edgecolbert.integrations.haystack": ("haystack", "haystack-ai", "haystack"),
    "edgecolbert.integrations.langchain": ("langchain_core", "langchain-core", "langchain"),
    "edgecolbert.integrations.llama_index": ("llama_index", "llama-index-core", "llama-index"),
}
EVERY_MODULE = sorted(
    "edgecolbert." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    # Hooks are PyInstaller's to run, which they import.
    if path.name not in ("__init__.py", "__main__.py") and "__pyinstaller" not in path.parts
)
MODULES = [name for name in EVERY_MODULE if name not in DOORS]


def _run(program: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_public_name_is_there_and_documented() -> None:
    for name in edgecolbert.__all__:
        value = getattr(edgecolbert, name)
        if name != "__version__":
            assert inspect.getdoc(value), f"{name} has no docstring"
    assert len(set(edgecolbert.__all__)) == len(edgecolbert.__all__)
    assert dir(edgecolbert) == sorted(edgecolbert.__all__)


def test_every_public_method_is_documented() -> None:
    for name in edgecolbert.__all__:
        value = getattr(edgecolbert, name)
        if inspect.isclass(value):
            for attribute, member in vars(value).items():
                if not attribute.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                    assert inspect.getdoc(member), f"{name}.{attribute} has no docstring"


def test_the_names_for_type_checkers_are_the_names_at_run_time() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        alias.asname: str(node.module).removeprefix("edgecolbert.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == edgecolbert._HOMES


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'edgecolbert' has no attribute 'Indexx'"):
        edgecolbert.Indexx  # noqa: B018


@pytest.mark.parametrize("first", ["Index", "Encoder", "reencode", "scoring", "index"])
def test_a_public_name_means_the_same_whatever_was_imported_before(first: str) -> None:
    program = (
        "import importlib, sys, edgecolbert\n"
        "getattr(edgecolbert, sys.argv[1], None) or importlib.import_module('edgecolbert.' + sys.argv[1])\n"
        "[importlib.import_module(name) for name in sys.argv[2].split()]\n"
        "for name, home in edgecolbert._HOMES.items():\n"
        "    there = getattr(importlib.import_module('edgecolbert.' + home), name)\n"
        "    assert getattr(edgecolbert, name) is there, name\n"
    )
    _run(program, first, " ".join(module for module in MODULES if ".commands." not in module))


def test_no_module_has_the_name_of_something_public() -> None:
    # Importing the module would put it over the function.
    assert {module.rpartition(".")[2] for module in MODULES if module.count(".") == 1}.isdisjoint(edgecolbert.__all__)


def test_every_error_is_in_the_tree_of_the_docstring_with_its_bases() -> None:
    lines = [line.lstrip("│├└─ ") for line in (errors.__doc__ or "").splitlines() if "──" in line]
    documented = {line.split()[0]: line for line in lines}
    classes = {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value)
        and issubclass(value, errors.EdgeColbertError)
        and value is not errors.EdgeColbertError
    }
    assert set(documented) == set(classes)
    for name, value in classes.items():
        builtins = [base.__name__ for base in value.__bases__ if base.__module__ == "builtins"]
        assert [word for word in builtins if f"(also {word})" not in documented[name]] == []
        assert value.__doc__


def test_importing_the_package_imports_none_of_its_dependencies() -> None:
    heavy = ("numpy", "onnxruntime", "tokenizers", "sqlite_utils", "usearch", "tqdm", "sqlite3")
    loaded = _run("import edgecolbert, sys; print(*sys.modules)").split()
    assert [name for name in heavy if name in loaded] == []


def test_importing_every_module_needs_no_extra() -> None:
    loaded = _run(
        "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(*sys.modules)", *MODULES
    ).split()
    tops = {name.partition(".")[0] for name in loaded}
    forbidden = {"torch", "onnx", "transformers", "edgecolbert_export", "safetensors", "ir_measures", "ranx", "pytest"}
    forbidden |= {"huggingface_hub", "pyarrow", "pydantic", "starlette", "uvicorn"}
    forbidden |= {"charset_normalizer", "docx", "pathspec", "pypdfium2", "watchfiles"}
    forbidden |= {package for package, _, _ in DOORS.values()}
    assert tops & forbidden == set()


@pytest.mark.parametrize("door", DOORS)
def test_a_door_without_its_framework_names_the_extra(door: str) -> None:
    package, distribution, extra = DOORS[door]
    program = (
        "import importlib, sys\nsys.modules[sys.argv[2]] = None\n"  # as if it were not installed
        "from edgecolbert import MissingExtraError\n"
        "try: importlib.import_module(sys.argv[1])\nexcept MissingExtraError as error: print(error)"
    )
    assert _run(program, door, package) == (
        f"{door} needs the package {distribution}, which is not installed. Install it with: "
        f"pip install 'edgecolbert[{extra}]'.\n"
    )
    assert door in EVERY_MODULE


def test_importing_changes_no_settings_of_the_process() -> None:
    program = (
        "import importlib, logging, os, sys, threading\n"
        "def state(): return dict(os.environ), list(logging.root.handlers), threading.active_count()\n"
        "before = state()\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "assert state() == before, (state(), before)"
    )
    _run(program, *(module for module in MODULES if ".commands." not in module))


def test_only_the_commands_about_export_import_the_export_pipeline() -> None:
    importers = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] == "edgecolbert_export" for name in names):
                importers.add(path.relative_to(PACKAGE).as_posix())
    assert importers == {"commands/export.py", "commands/models.py"}


def test_a_cold_search_imports_only_what_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    with edgecolbert.Index.open(path) as index:
        index.add(["The kettle is in the left cupboard."])
    program = (
        "import sys\nfrom edgecolbert.cli import main\n"
        "assert main(['search', 'kettle', '--db', sys.argv[1], '--json']) == 0\n"
        "print('MODULES', *sys.modules)"
    )
    loaded = _run(program, str(path)).split("MODULES")[1].split()
    assert [name for name in ("sqlite_utils", "usearch", "tqdm", "click", "torch", "onnx") if name in loaded] == []
    assert "onnxruntime" in loaded


def test_the_version_is_the_distributions() -> None:
    from importlib.metadata import version

    assert edgecolbert.__version__ == version("edgecolbert")
