#!/usr/bin/env bash
# Lays down everything `swift build` needs and does nothing when it is there already:
# the compiler and PCRE2 packages (apt), and under .deps/ libtorch and xgrammar unpacked from their
# wheels.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
usage: Scripts/setup.sh [--cpu | --cuda]

  --cpu    only what libtorch needs on a machine without a GPU
  --cuda   also the CUDA libraries; without an option this follows from the machine

MINIMA_TORCH=/path/to/site-packages/torch uses that torch package and downloads nothing.
TEXT
}

torch_version=2.11.0
grammar_version=0.2.8
oldest_swift=6.3
deps=.deps
site=$deps/site-packages
. Scripts/common.sh

variant=
for argument in "$@"; do
    case $argument in
    --cpu) variant=cpu ;;
    --cuda) variant=cuda ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
done

# ------------------------------------------------------------------------------------------ Swift

check_swift() {
    local info version
    command -v swiftc >/dev/null ||
        die "no Swift compiler found; Minima needs Swift $oldest_swift or newer" \
            "install it from https://www.swift.org/install/linux and put its bin folder in PATH"
    info=$(swiftc -print-target-info 2>&1) || die "swiftc does not run: $info" \
        "the packages it needs are listed at https://www.swift.org/install/linux"
    version=$(sed -n 's/.*"compilerVersion": "[^"]*Swift version \([0-9.]*\).*/\1/p' <<<"$info")
    [ -n "$version" ] || die "swiftc does not state its version: $info"
    if ! printf '%s\n' "$oldest_swift" "$version" | sort -C -V; then
        die "Swift $version is in PATH; Minima needs Swift $oldest_swift or newer" \
            "install a newer one from https://www.swift.org/install/linux"
    fi
    # The toolchain's own clang compiles Minima's C and C++, so it is the one to ask about headers.
    clang=$(sed -n 's/.*"runtimeResourcePath": "\([^"]*\)".*/\1/p' <<<"$info")/../../bin/clang
    [ -x "$clang" ] || die "the Swift toolchain has no clang at $clang; install all of it"
    say "Swift $version"
}

# ------------------------------------------------------------------------------------------- apt

# Compiles and links standard input as C++ with the given arguments.
compiles() { "$clang" -x c++ - "$@" -lstdc++ -o "$probe/a.out" 2>/dev/null; }

has_cxx() { compiles <<<$'#include <string>\nint main() { return std::string().size(); }'; }
has_pcre2() {
    compiles -lpcre2-8 <<'CODE'
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string>
int main() { return pcre2_config_8(PCRE2_CONFIG_JIT, nullptr); }
CODE
}

# The C++ library of the GCC that clang chose: it takes the newest GCC folder, headers or not.
cxx_packages() {
    local gcc
    gcc=$("$clang" -v 2>&1 | sed -n 's|^Selected GCC installation: .*/\([0-9]*\)[0-9.]*$|\1|p')
    echo "g++${gcc:+ libstdc++-$gcc-dev}"
}

install_packages() {
    local sudo=() apt=() packages=() missing=()
    command -v git >/dev/null || missing+=(git)
    command -v pkg-config >/dev/null || missing+=(pkg-config)
    command -v strip >/dev/null && command -v readelf >/dev/null || missing+=(binutils)
    if ! has_pcre2; then
        if ! has_cxx; then
            read -r -a packages <<<"$(cxx_packages)"
            missing+=("${packages[@]}")
        fi
        [ -e /usr/include/pcre2.h ] && has_cxx || missing+=(libpcre2-dev)
    fi
    if [ ${#missing[@]} -eq 0 ]; then
        say "system packages: present (C++ library, PCRE2, pkg-config, git, binutils)"
        return
    fi
    command -v apt-get >/dev/null || die "missing on this machine: ${missing[*]}" \
        "these are Debian names, and apt-get is not here; use your package manager"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "missing on this machine: ${missing[*]}" \
            "run as root: apt-get install ${missing[*]}"
        sudo=(sudo)
        [ -t 0 ] || sudo=(sudo -n)
    fi
    say "system packages: installing ${missing[*]}"
    # Packages may start services: these must not inherit the lock (descriptor 9).
    apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive
        apt-get -o DPkg::Lock::Timeout=300 -qq -y --no-install-recommends)
    # A broken third-party source fails the update, yet not necessarily the installation.
    if ! { "${apt[@]}" update || true; "${apt[@]}" install "${missing[@]}"; } \
        </dev/null >"$probe/apt.log" 2>&1 9>&-; then
        tail -n 20 "$probe/apt.log" >&2
        die "apt-get could not install: ${missing[*]}" \
            "check the network and the rights, or install them yourself, then run this again"
    fi
    has_pcre2 || die "C++ with PCRE2 still does not compile after installing ${missing[*]}" \
        "to see why: echo '#include <pcre2posix.h>' | $clang -x c++ -fsyntax-only -v -"
}

# ----------------------------------------------------------------------------------------- torch

# Why the folder is no usable torch package of the pinned version; prints nothing if it is one.
torch_defect() {
    local version file
    [ -d "$1" ] || { echo "there is no such folder"; return; }
    [ -f "$1/version.py" ] || { echo "it has no version.py, so it is no torch package"; return; }
    version=$(sed -n "s/^__version__ = '\(.*\)'.*/\1/p" "$1/version.py")
    [ "${version%%+*}" = "$torch_version" ] ||
        { echo "it is torch ${version:-of unknown version}, Minima needs $torch_version"; return; }
    for file in include/ATen/core/Tensor.h lib/libtorch_cpu.so lib/libc10.so; do
        [ -f "$1/$file" ] || { echo "it has no $file"; return; }
    done
}

use_given_torch() {
    local defect
    case $MINIMA_TORCH in
    /*) ;;
    *) die "MINIMA_TORCH=$MINIMA_TORCH is a relative path; give the absolute one" ;;
    esac
    defect=$(torch_defect "$MINIMA_TORCH")
    [ -z "$defect" ] || die "MINIMA_TORCH=$MINIMA_TORCH cannot be used: $defect" \
        "name the folder 'torch' in the site-packages of torch $torch_version," \
        "or unset MINIMA_TORCH to download it"
    say "libtorch $torch_version: MINIMA_TORCH=$MINIMA_TORCH"
}

has_gpu() { [ -e /dev/nvidia0 ] || nvidia-smi -L >/dev/null 2>&1; }

# What is installed, in one line: the versions, the variant, and the hash of the pins.
wanted_stamp() {
    printf 'torch %s %s %s %s\n' "$torch_version" "$variant" "$machine" \
        "$(cat "${requirements[@]}" | sha256sum | cut -d ' ' -f 1)"
}

installed() {
    [ -f "$site/.stamp" ] && [ "$(cat "$site/.stamp")" = "$stamp" ] &&
        [ -z "$(torch_defect "$site/torch")" ] && [ -f "$site/nvidia/cu13/lib/libcudart.so.13" ]
}

find_pip() {
    local candidate
    for candidate in "python3 -m pip" pip3 pip; do
        # shellcheck disable=SC2086
        if $candidate --version >/dev/null 2>&1; then
            read -r -a pip <<<"$candidate"
            return
        fi
    done
    die "pip is not installed, and libtorch comes as a Python wheel" \
        "install it (apt-get install python3-pip)," \
        "or set MINIMA_TORCH to a torch $torch_version package"
}

check_space() {
    local free
    free=$(df -Pm "$deps" | awk 'NR == 2 { print $4 }')
    [ "$free" -ge "$needed_mb" ] ||
        die "$free MB are free in $PWD/$deps, unpacking libtorch needs $needed_mb MB" \
            "free some space, move this folder to a larger disk," \
            "or set MINIMA_TORCH to a torch $torch_version package"
}

# unpack FOLDER FILE...: unpacks the wheels that these files of requirements pin.
unpack() {
    local tag file folder=$1 arguments=() noise=(-q --progress-bar off)
    shift
    for tag in 28 27 26 25 24 23 22 21 20 19 18 17; do
        arguments+=(--platform "manylinux_2_${tag}_$machine")
    done
    arguments+=(--platform "manylinux2014_$machine" --python-version 3.12 --implementation cp)
    for file in "$@"; do arguments+=(-r "$file"); done
    [ ! -t 1 ] || noise=()
    mkdir -p "$deps/tmp.$$"
    # A site-wide `pip --user` setting would clash with --target. TMPDIR keeps the move a rename.
    PIP_USER=0 PIP_ROOT_USER_ACTION=ignore TMPDIR=$PWD/$deps/tmp.$$ "${pip[@]}" install \
        "${noise[@]}" --disable-pip-version-check --no-deps --no-compile --require-hashes \
        --only-binary=:all: --target "$folder" "${arguments[@]}"
}

download_torch() {
    local new=$deps/tmp.$$/site-packages
    find_pip
    check_space
    say "libtorch $torch_version ($variant, $machine): downloading and unpacking $size"
    unpack "$new" "${requirements[@]}" ||
        die "pip could not install libtorch $torch_version (its message is above)" \
            "check the network, the proxy and pip's index settings, then run this again;" \
            "or set MINIMA_TORCH to a torch $torch_version package that is on this machine"
    check_loads "$new/torch"
    echo "$stamp" >"$new/.stamp"
    [ ! -e "$site" ] || mv "$site" "$deps/tmp.$$/replaced"
    mv "$new" "$site"
    rm -rf "$deps/tmp.$$"
    say "libtorch $torch_version: installed in $site"
}

# Loads the library once, so that a missing system library shows here and not at the first run.
check_loads() {
    local load='import ctypes, sys; ctypes.CDLL(sys.argv[1])' message
    message=$(python3 -c "$load" "$1/lib/libtorch_cpu.so" 2>&1) ||
        die "the downloaded libtorch_cpu.so does not load: ${message##*$'\n'}"
}

set_up_torch() {
    if [ -n "${MINIMA_TORCH:-}" ]; then
        use_given_torch
        return
    fi
    machine=$(uname -m)
    case $machine in
    x86_64 | aarch64) ;;
    *) die "torch $torch_version has no Linux wheel for $machine" \
        "set MINIMA_TORCH to a torch $torch_version package built for this machine" ;;
    esac
    if [ -z "$variant" ]; then
        variant=cpu
        # The CUDA libraries do no harm where there is no GPU, so those asked for once stay.
        if has_gpu || grep -q "^torch $torch_version cuda " "$site/.stamp" 2>/dev/null; then
            variant=cuda
        fi
    fi
    requirements=(Scripts/torch-requirements.txt)
    needed_mb=2500
    size="0.5 GB (1.2 GB on disk)"
    if [ "$variant" = cuda ]; then
        requirements+=(Scripts/torch-requirements-cuda.txt)
        needed_mb=7000
        size="2.5 GB (4 GB on disk)"
    fi
    stamp=$(wanted_stamp)
    if installed; then
        say "libtorch $torch_version: present ($variant)"
    else
        download_torch
    fi
}

# -------------------------------------------------------------------------------------- xgrammar

# Prints nothing if the folder holds the pinned version of xgrammar.
grammar_defect() {
    grep -qs "^__version__ = .*'$grammar_version'" "$1/xgrammar/_version.py" &&
        [ -f "$1/xgrammar/libxgrammar_bindings.so" ] && [ -f "$1/tvm_ffi/lib/libtvm_ffi.so" ] ||
        echo "it has no xgrammar $grammar_version"
}

set_up_grammar() {
    local new=$deps/tmp.$$/grammar name
    if [ -n "${MINIMA_TORCH:-}" ]; then
        if [ -z "$(grammar_defect "$MINIMA_TORCH/..")" ]; then
            say "xgrammar $grammar_version: present beside MINIMA_TORCH"
        else
            # Not by the file itself: its hashes are those of wheels for one version of Python.
            say "xgrammar $grammar_version: not beside MINIMA_TORCH; only constrained answers need" \
                "it: pip install --no-deps" \
                "$(sed -n 's/^\([a-z-]*==[0-9.]*\).*/\1/p' Scripts/grammar-requirements.txt | paste -sd ' ')"
        fi
        return
    fi
    if [ -z "$(grammar_defect "$site")" ]; then
        say "xgrammar $grammar_version: present"
        return
    fi
    find_pip
    say "xgrammar $grammar_version: downloading and unpacking 4 MB (12 MB on disk)"
    unpack "$new" Scripts/grammar-requirements.txt ||
        die "pip could not install xgrammar $grammar_version (its message is above)" \
            "check the network, the proxy and pip's index settings, then run this again"
    for name in xgrammar tvm_ffi; do
        rm -rf "${site:?}/$name"
        mv "$new/$name" "$site/"
    done
    # What pip lists of them, licences among it.
    rm -rf "$site"/xgrammar-*.dist-info "$site"/apache_tvm_ffi-*.dist-info
    mv "$new"/*.dist-info "$site/"
    rm -rf "$deps/tmp.$$"
    say "xgrammar $grammar_version: installed in $site"
}

# ------------------------------------------------------------------------------------------ main

[ "$(uname -s)" = Linux ] || die "Minima builds on Linux only, this is $(uname -s)"
mkdir -p "$deps"
probe=$(mktemp -d)
trap 'rm -rf "$probe" "$deps/tmp.$$"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# One setup at a time; what a killed one left behind goes first.
exec 9>"$deps/.lock"
if ! flock -n 9; then
    say "waiting for another setup in this folder"
    flock 9
fi
rm -rf "$deps"/tmp.*

check_swift
install_packages
set_up_torch
set_up_grammar
