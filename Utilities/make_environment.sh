#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Makes or renews the virtual environment that the Makefile's targets run in.
#
#   Utilities/make_environment.sh FOLDER EXTRAS      e.g.  Utilities/make_environment.sh .venv dev,demo,train
#
# Nothing happens if FOLDER was already made from the same pyproject.toml, constraints.txt and Python, with at
# least these extras. Set PYTHON to choose the interpreter. pip's own settings and PIP_* variables are respected.
set -eu

folder=$1
extras=$2
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"

say() { printf 'dianet: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

supported() {  # true if $1 starts and is a Python that the project runs on
    "$1" -c 'import sys; sys.exit(not ((3, 10) <= sys.version_info[:2] <= (3, 13) and sys.maxsize > 2**32))' \
        >/dev/null 2>&1
}
complete() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }  # Debian ships `venv` without `ensurepip`
has_recent_pip() {
    "$1" -c 'import pip, sys; sys.exit(tuple(map(int, pip.__version__.split(".")[:2])) < (22, 3))' >/dev/null 2>&1
}

# Prints the first supported interpreter that can make an environment by itself, else the first supported one.
find_python() {
    fallback=
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
        supported "$candidate" || continue
        if complete "$candidate"; then
            echo "$candidate"
            return
        fi
        fallback=${fallback:-$candidate}
    done
    echo "$fallback"
}

# Installs Debian packages if that needs no password; returns 1 if it cannot be done.
apt_install() {
    command -v apt-get >/dev/null 2>&1 || return 1
    if [ "$(id -u)" = 0 ]; then
        as_root=
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        as_root='sudo -n'
    else
        return 1
    fi
    say "installing the system package(s) $* with apt-get"
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2 || true  # an old list may still do
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

fingerprint() {
    { cat pyproject.toml constraints.txt; echo "$root"; "$folder/bin/python" -VV; } 2>/dev/null | cksum
}
stamp=$folder/dianet-environment

# --- nothing to do? -----------------------------------------------------------------------------------------------
if [ -f "$stamp" ] && [ -x "$folder/bin/python" ] && [ "$(sed -n 1p "$stamp")" = "$(fingerprint)" ]; then
    present=,$(sed -n 2p "$stamp"),
    missing=
    for extra in $(echo "$extras" | tr , ' '); do
        case $present in *",$extra,"*) ;; *) missing=yes ;; esac
    done
    [ -n "$missing" ] || exit 0
    extras=$(echo "$extras$present" | tr , '\n' | sed '/^$/d' | sort -u | paste -sd, -)
fi

# --- an interpreter -----------------------------------------------------------------------------------------------
if [ -e "$folder" ] && ! { supported "$folder/bin/python" && "$folder/bin/python" -m pip --version >/dev/null 2>&1; }
then
    [ -f "$folder/pyvenv.cfg" ] || [ ! -e "$folder/lib" ] ||
        fail "$folder exists but is no virtual environment. Move it away, then run make again."
    say "$folder cannot be used as it is (another machine's, an interrupted set-up, or its Python is gone): making it anew"
    rm -rf "$folder"
fi

if [ ! -e "$folder" ]; then
    python=$(find_python)
    if [ -z "$python" ] && [ -z "${PYTHON:-}" ] && apt_install python3 python3-venv; then
        python=$(find_python)
    fi
    [ -n "$python" ] || fail "no Python 3.10 to 3.13 was found${PYTHON:+ under the name $PYTHON}." \
        "Install one, for example with: sudo apt-get install python3 python3-venv" \
        "- or name one: make PYTHON=/path/to/python3.12 ..."
    if ! complete "$python"; then
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        apt_install "$package" || apt_install python3-venv || true
    fi
    say "making $folder with $("$python" -V 2>&1)"
    if complete "$python"; then
        "$python" -m venv "$folder"
    elif "$python" -c 'import venv' 2>/dev/null && has_recent_pip "$python"; then
        # No ensurepip, but a pip that can install into another environment.
        "$python" -m venv --without-pip "$folder"
        "$python" -m pip --python "$folder/bin/python" install --quiet --ignore-installed pip
    else
        fail "$python cannot make virtual environments because the package $package is missing." \
            "Install it with: sudo apt-get update && sudo apt-get install $package    and run make again."
    fi
fi

# --- the packages -------------------------------------------------------------------------------------------------
if [ -f "$stamp" ]; then
    quiet=--quiet  # else pip names every package that is there already
    say "bringing $folder up to date"
else
    quiet=
    say "installing the library and what it needs into $folder (once; takes minutes, torch alone is a large download)"
fi
rm -f "$stamp"
PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 "$folder/bin/python" -m pip install $quiet \
    --constraint constraints.txt --editable ".[$extras]" ||
    fail "the installation did not complete; pip's last lines above say why" \
        "(often no network, or a full disk: $(df -h . | awk 'NR==2 {print $4}') are free here). Run make again to go on."
printf '%s\n%s\n' "$(fingerprint)" "$extras" >"$stamp"
say "$folder is ready"
