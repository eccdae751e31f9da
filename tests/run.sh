#!/usr/bin/env bash
# Everything that must pass: lint, types, docstrings, tests, and the wheel in a clean environment.
#
#   bash tests/run.sh            the runtime, without torch
#   bash tests/run.sh --export   and the export pipeline against PyLate, which installs torch
#   bash tests/run.sh --slow     and the tests that take long; with --export those of the export, too
#   bash tests/run.sh --optimum  and optimum's exporter, in an environment of its own with transformers 4.57
#
# Environments are made in .venv-test, .venv-docstrings, .venv-export and .venv-optimum, and used again by the next run.
set -euo pipefail
cd "$(dirname "$0")/.."

slow=0 export=0 optimum=0
for option in "$@"; do
    case $option in
        --slow) slow=1 ;;
        --export) export=1 ;;
        --optimum) optimum=1 ;;
        *) echo "tests/run.sh: unknown option $option, expected --slow, --export or --optimum" >&2; exit 2 ;;
    esac
done
python=${PYTHON:-python3}

say() { printf '\n== %s\n' "$*"; }

environment() { # folder, then what pip is to install
    local folder=$1
    shift
    [ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

say "environment for the tests"
environment .venv-test --editable '.[dev]'
bin=.venv-test/bin

say "lint, types, docstrings"
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
# In an environment of its own: what it and Haystack need are two packages with one module, docstring_parser.
environment .venv-docstrings 'pydoclint>=0.6'
.venv-docstrings/bin/pydoclint --quiet edgecolbert export/edgecolbert_export

say "tests"
"$bin/python" -m pytest
if [ $slow = 1 ]; then
    say "slow tests"
    "$bin/python" -m pytest -m slow --ignore tests/export
fi
if [ $export = 1 ]; then
    say "environment for the export tests"
    # torch first and alone: everything after it is satisfied with what is there.
    environment .venv-export torch==2.13.0
    environment .venv-export --editable '.[export,dev]' sentence-transformers==5.3.0 transformers==5.3.0 pandas datasets accelerate ujson
    environment .venv-export --no-deps pylate==1.6.0 fastkmeans==0.5.0
    say "export tests"
    .venv-export/bin/python -m pytest tests/export
    if [ $slow = 1 ]; then
        say "slow export tests: the true shapes of published models"
        .venv-export/bin/python -m pytest tests/export -m slow
        say "training of the starter model, at its smallest"
        .venv-export/bin/python -m pytest models/starter/train -m slow
    fi
fi

if [ $optimum = 1 ]; then
    say "environment for the tests of optimum"
    environment .venv-optimum torch==2.13.0
    environment .venv-optimum --editable '.[optimum]' pytest hypothesis
    say "tests of optimum"
    .venv-optimum/bin/python -m pytest tests/export/test_optimum.py
fi

say "the wheel in a clean environment, with base dependencies only"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$work/wheel" .
"$python" -m venv "$work/clean"
"$work/clean/bin/python" -m pip install --quiet --disable-pip-version-check "$work"/wheel/edgecolbert-*.whl
cp -r examples/handbook "$work/handbook"
(
    cd "$work" # away from the checkout, so that only the wheel can be imported
    clean/bin/edgecolbert --help >/dev/null
    clean/bin/edgecolbert doctor
    clean/bin/edgecolbert index handbook --db notes.db
    clean/bin/edgecolbert search "water keeps dripping at night" --db notes.db -k 3 --json >hits.json
    clean/bin/python - <<'CHECK'
import importlib.util, json
hits = json.load(open("hits.json"))["hits"]
assert hits[0]["id"] == "dripping-tap.md", hits
assert importlib.util.find_spec("torch") is None, "torch must not be a base dependency"
CHECK
    clean/bin/edgecolbert verify --db notes.db
)
say "all passed"
