#!/usr/bin/env bash
# Lays the Python clients that the server's tests run under .deps/clients and .deps/lm-eval; does
# nothing when they are there already. Only `make test` needs them.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }

# The pinned numpy and pandas have no wheels for older ones.
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    say "error: the server's tests run Python clients, which need a python3 of 3.11 or newer" >&2
    exit 1
fi

# install REQUIREMENTS FOLDER WHAT
install() {
    local requirements=$1 folder=$2 stamp new
    stamp="$(python3 -V) $(sha256sum <"$requirements")"
    if [ "$(cat "$folder/.stamp" 2>/dev/null)" = "$stamp" ]; then
        say "$folder: present"
        return
    fi
    mkdir -p .deps
    new=$(mktemp -d "$folder.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$new'" EXIT
    say "$folder: installing $3"
    # All versions are pinned. A site-wide `pip --user` setting would clash with --target.
    PIP_USER=0 PIP_ROOT_USER_ACTION=ignore python3 -m pip install -q --progress-bar off \
        --disable-pip-version-check --no-deps --no-compile --only-binary=:all: \
        --target "$new" -r "$requirements"
    echo "$stamp" >"$new/.stamp"
    chmod 755 "$new"
    rm -rf "$folder"
    mv "$new" "$folder"
}

requirements=Tests/MinimaServerTests/Clients
install $requirements/requirements.txt .deps/clients "openai and what it imports (20 MB)"
install $requirements/requirements-lm-eval.txt .deps/lm-eval \
    "lm-evaluation-harness and what it imports (100 MB, 400 MB on the disk)"
