#!/usr/bin/env bash
# Lays the Python clients that the server's tests run under .deps/clients; does nothing when they are
# there already. Only `make test` needs them.
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=Tests/MinimaServerTests/Clients/requirements.txt
folder=.deps/clients

say() { printf 'setup: %s\n' "$*"; }

stamp="$(python3 -V) $(sha256sum <"$requirements")" || {
    say "error: python3 is not installed, and the server's tests run Python clients" >&2
    exit 1
}
if [ "$(cat "$folder/.stamp" 2>/dev/null)" = "$stamp" ]; then
    say "clients for tests: present"
    exit
fi
mkdir -p .deps
new=$(mktemp -d .deps/clients.XXXXXX)
trap 'rm -rf "$new"' EXIT
say "clients for tests: installing openai and what it imports (20 MB)"
# All versions are pinned. A site-wide `pip --user` setting would clash with --target.
PIP_USER=0 PIP_ROOT_USER_ACTION=ignore python3 -m pip install -q --progress-bar off \
    --disable-pip-version-check --no-deps --no-compile --only-binary=:all: \
    --target "$new" -r "$requirements"
echo "$stamp" >"$new/.stamp"
chmod 755 "$new"
rm -rf "$folder"
mv "$new" "$folder"
