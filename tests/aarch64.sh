#!/usr/bin/env bash
# The wheel on 64-bit Arm, emulated: what a Raspberry Pi 4 (cortex-a72) and 5 (cortex-a76) would compute.
#
#   bash tests/aarch64.sh                 both processors
#   bash tests/aarch64.sh cortex-a72      one; any name that qemu-aarch64 knows
#
# It needs Linux, apt-get and dpkg-deb, Debian's keyring, and the environment that tests/run.sh makes (or PYTHON). It
# needs no root: Debian's qemu-user and an arm64 Python are unpacked below .aarch64, with the released wheels for
# aarch64 from the package index, and are used again by the next run. Emulation says what is computed, never how fast.
# tests/run.sh does not run it.
set -euo pipefail
cd "$(dirname "$0")/.."
checkout=$PWD
home=$checkout/.aarch64
processors=("$@")
[ $# -gt 0 ] || processors=(cortex-a72 cortex-a76)

say() { printf '\n== %s\n' "$*"; }
missing() { echo "tests/aarch64.sh: $*" >&2; exit 2; }

native=${PYTHON:-$checkout/.venv-test/bin/python}
[ "$(uname -s)" = Linux ] || missing "emulation of a single program needs Linux; run it in a Linux container."
[ "$(uname -m)" != aarch64 ] || missing "this is a 64-bit Arm machine already: run bash tests/run.sh."
for program in apt-get dpkg-deb; do
    command -v $program >/dev/null || missing "$program is missing. It comes with Debian and Ubuntu; use a container of one."
done
"$native" -c 'import edgecolbert, pytest, pip' 2>/dev/null ||
    missing "$native lacks edgecolbert, pytest or pip. Run bash tests/run.sh first, or set PYTHON to an environment with them."
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r $keyring ] || missing "$keyring is missing: apt-get install debian-archive-keyring, or copy it from a Debian machine."
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 'debian/$' || true)}
[ -n "$mirror" ] || missing "no Debian mirror is set up here. Set DEBIAN_MIRROR to the address of one."

apt() { # architecture, release, then what apt-get is to do; its lists and packages stay below .aarch64
    local folder=$home/apt-$1-$2
    mkdir -p "$folder"/{lists,archives}/partial
    [ -e "$folder/status" ] || : >"$folder/status"
    echo "deb [signed-by=$keyring] $mirror $2 main" >"$folder/sources.list"
    cat >"$folder/apt.conf" <<CONF
APT::Architecture "$1";
APT::Architectures { "$1"; };
APT::Sandbox::User "$(id -un)";
Dir::State "$folder";
Dir::State::status "$folder/status";
Dir::State::lists "$folder/lists";
Dir::Cache "$folder";
Dir::Cache::archives "$folder/archives";
Dir::Etc::sourcelist "$folder/sources.list";
Dir::Etc::sourceparts "-";
CONF
    APT_CONFIG=$folder/apt.conf apt-get --quiet=2 "${@:3}"
}

if [ ! -e "$home/complete" ]; then
    say "qemu and Python for arm64, about 100 MB"
    # Debian 13's qemu, which is one static program: older ones show the host's /proc/cpuinfo, on which onnxruntime 1.28
    # and later die, and compute wrongly with the matrix extension SME.
    host=$(dpkg --print-architecture)
    apt "$host" trixie update
    (cd "$home" && apt "$host" trixie download qemu-user)
    dpkg-deb -x "$home"/qemu-user_*.deb "$home/qemu"
    # Raspberry Pi OS is made of this release.
    apt arm64 bookworm update
    apt arm64 bookworm install --yes --download-only --no-install-recommends python3.11 libstdc++6 >/dev/null
    for package in "$home"/apt-arm64-bookworm/archives/*.deb; do dpkg-deb -x "$package" "$home/root"; done
    touch "$home/complete"
fi

# Python finds itself by its first argument, and starts children by that name too: this file.
cat >"$home/python" <<WRAPPER
#!/bin/sh
export PYTHONHOME="$home/root/usr" PYTHONDONTWRITEBYTECODE=1
exec "$home/qemu/usr/bin/qemu-aarch64" -0 "$home/python" -L "$home/root" "$home/root/usr/bin/python3.11" "\$@"
WRAPPER
chmod +x "$home/python"

say "this wheel, and the released aarch64 wheels that it needs"
rm -rf "$home/wheel" "$home/package"
"$native" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$home/wheel" .
"$native" -m zipfile -e "$home"/wheel/edgecolbert-*.whl "$home/package"
requirements=$("$native" - <<'READ'
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print("\n".join(project["dependencies"]), "pytest", "hypothesis", sep="\n")
READ
)
if [ "$(cat "$home/requirements" 2>/dev/null)" != "$requirements" ]; then
    rm -rf "$home/site"
    platforms=(--platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_26_aarch64
        --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64)
    echo "$requirements" >"$home/wanted"
    "$native" -m pip install --quiet --disable-pip-version-check --no-compile --target "$home/site" \
        --only-binary=:all: "${platforms[@]}" --python-version 311 --implementation cp --requirement "$home/wanted"
    echo "$requirements" >"$home/requirements"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r examples/handbook "$work/handbook"
say "what this machine computes ($(uname -m))"
(cd "$work" && PYTHONPATH=$checkout "$native" "$checkout/tests/aarch64_checks.py" write expected.json)

export PYTHONPATH=$home/package:$home/site
for processor in "${processors[@]}"; do
    export QEMU_CPU=$processor
    say "$processor: doctor"
    (
        cd "$work" # away from the checkout, so that only the wheel can be imported
        rm -f notes.db*
        "$home/python" -m edgecolbert doctor
        say "$processor: index, search, verify"
        "$home/python" -m edgecolbert index handbook --db notes.db
        "$home/python" -m edgecolbert search "water keeps dripping at night" --db notes.db -k 3 --json >hits.json
        "$native" -c 'import json; hits = json.load(open("hits.json"))["hits"]; assert hits[0]["id"] == "dripping-tap.md", hits'
        "$home/python" -m edgecolbert verify --db notes.db
        say "$processor: the same as here?"
        "$home/python" "$checkout/tests/aarch64_checks.py" compare expected.json
    )
    say "$processor: tests"
    "$home/python" -m pytest -q -p no:cacheprovider tests/test_scoring.py tests/test_tokenizer.py \
        tests/test_crashes.py::test_a_rerun_after_a_kill_encodes_only_what_is_missing \
        tests/test_crashes.py::test_a_list_that_was_killed_shows_nothing_and_is_continued
done
say "all passed"
