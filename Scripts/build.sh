#!/usr/bin/env bash
# Release build, .build/release/minima and libMinimaTorch.so, with the Swift runtime and PCRE2 inside the
# binary. Paths of this machine are left in debug information and where libtorch is looked for; `make dist`
# takes both out.
set -euo pipefail
cd "$(dirname "$0")/.."

die() {
    printf 'build: error: %s\n' "$*" >&2
    exit 1
}

# SwiftPM asks pkg-config where PCRE2 is; this answer names a folder that holds the archive alone.
compiler=$(command -v cc || command -v gcc || command -v clang) || die "no C compiler in PATH"
archive=$("$compiler" -print-file-name=libpcre2-8.a)
[ -f "$archive" ] || die "libpcre2-8.a is missing; apt-get install libpcre2-dev"
mkdir -p .build/pkgconfig
cp "$archive" .build/pkgconfig/
cat >.build/pkgconfig/libpcre2-8.pc <<PC
Name: libpcre2-8
Description: PCRE2, 8 bit, as a static archive
Version: 10
Libs: -L${PWD// /\\ }/.build/pkgconfig -lpcre2-8
Cflags:
PC

PKG_CONFIG_PATH=$PWD/.build/pkgconfig "${SWIFT:-swift}" build -c release -Xswiftc -static-stdlib \
    -Xcc "-ffile-prefix-map=$PWD/=" -Xcxx "-ffile-prefix-map=$PWD/="
