#!/usr/bin/env bash
# Lays the Python clients that the server's tests run under .deps/clients and .deps/lm-eval; does
# nothing when they are there already. Only `make test` needs them.
set -euo pipefail
cd "$(dirname "$0")/.."
. Scripts/common.sh

# The pinned numpy and pandas have no wheels for older ones.
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    die "the server's tests run Python clients, which need a python3 of 3.11 or newer"
fi

# install REQUIREMENTS FOLDER WHAT
install() {
    if has_packages "$1" "$2"; then
        say "$2: present"
        return
    fi
    say "$2: installing $3"
    install_packages "$1" "$2"
}

requirements=Tests/MinimaServerTests/Clients
install $requirements/requirements.txt .deps/clients "openai and what it imports (20 MB)"
install $requirements/requirements-lm-eval.txt .deps/lm-eval \
    "lm-evaluation-harness and what it imports (100 MB, 400 MB on the disk)"
