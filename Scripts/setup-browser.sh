#!/usr/bin/env bash
# Lays what the chat page's test needs under .deps/browser: Playwright for Python, and the path of a
# Chromium without a window. Does nothing when it is there already. Only `make test` needs it.
set -euo pipefail
cd "$(dirname "$0")/.."
. Scripts/common.sh

requirements=Tests/MinimaServerTests/Clients/requirements-browser.txt
folder=$PWD/.deps/browser

# Ubuntu's chromium-browser is a stub that wants snap, so only what tells its version counts.
runs() { timeout 30 "$1" --version >/dev/null 2>&1; }
find_browser() {
    local name path
    for name in chromium-headless-shell chromium google-chrome-stable google-chrome chromium-browser; do
        if path=$(command -v "$name") && runs "$path"; then
            echo "$path"
            return
        fi
    done
    # Playwright's own, from an earlier run.
    for path in "$folder"/chromium_headless_shell-*/*/*headless*shell; do
        if runs "$path"; then
            echo "$path"
            return
        fi
    done
    return 1
}

install_browser() {
    local sudo=() with_libraries=()
    if [ "$(id -u)" -ne 0 ]; then
        sudo=(sudo)
        [ -t 0 ] || sudo=(sudo -n)
    fi
    if command -v apt-get >/dev/null && "${sudo[@]}" true; then
        # A broken third-party source fails the update, yet not necessarily the installation.
        "${sudo[@]}" apt-get -o DPkg::Lock::Timeout=300 -qq update || true
        # All of it is read: apt-cache fails where its output is not, and the pipe with it.
        if apt-cache policy chromium-headless-shell | grep 'Candidate: [0-9]' >/dev/null; then
            say "browser for tests: installing chromium-headless-shell"
            "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
                -qq -y --no-install-recommends install chromium-headless-shell && return
        fi
        with_libraries=(--with-deps)
    fi
    say "browser for tests: downloading Playwright's Chromium"
    PYTHONPATH=$folder PLAYWRIGHT_BROWSERS_PATH=$folder \
        python3 -m playwright install --only-shell "${with_libraries[@]}" chromium
}

command -v python3 >/dev/null || die "python3 is not installed"
if has_packages "$requirements" "$folder"; then
    if runs "$(cat "$folder/.path" 2>/dev/null)"; then
        say "browser for tests: present"
        exit
    fi
else
    say "browser for tests: installing playwright (53 MB)"
    install_packages "$requirements" "$folder"
fi
path=$(find_browser) || {
    install_browser >&2 || die "no Chromium could be installed (the reason is above)" \
        "install chromium, chromium-headless-shell or Google Chrome, then run this again"
    path=$(find_browser) || die "the Chromium that was installed does not start"
}
echo "$path" >"$folder/.path"
say "browser for tests: $path"
