# shellcheck shell=bash
# What scripts that install packages share; sourced by them in the package's folder.

say() { printf 'setup: %s\n' "$*"; }
die() {
    printf 'setup: error: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf 'setup:        %s\n' "$line" >&2; done
    exit 1
}

# What pinned Python packages in a folder depend on: stamp REQUIREMENTS
stamp() { echo "$(python3 -V) $(sha256sum <"$1")"; }

# has_packages REQUIREMENTS FOLDER
has_packages() { [ "$(cat "$2/.stamp" 2>/dev/null)" = "$(stamp "$1")" ]; }

# The folder appears when it is complete: install_packages REQUIREMENTS FOLDER
install_packages() {
    local new
    mkdir -p "$(dirname "$2")"
    new=$(mktemp -d "$2.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$new'" EXIT
    # All versions are pinned. A site-wide `pip --user` setting would clash with --target.
    PIP_USER=0 PIP_ROOT_USER_ACTION=ignore python3 -m pip install -q --progress-bar off \
        --disable-pip-version-check --no-deps --no-compile --only-binary=:all: \
        --target "$new" -r "$1"
    stamp "$1" >"$new/.stamp"
    chmod 755 "$new"
    rm -rf "$2"
    mv "$new" "$2"
}
