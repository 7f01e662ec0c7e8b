#!/usr/bin/env bash
# Builds dist/minima-<version>-linux-<arch>/ and its .tar.gz: the Swift runtime and PCRE2 inside
# the binary, libtorch found at run time. Its own scratch path leaves the usual build alone.
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=.build/dist
products=$scratch/release
mkdir -p "$scratch/pkgconfig"

die() {
    printf 'dist: error: %s\n' "$*" >&2
    exit 1
}

# SwiftPM asks pkg-config where PCRE2 is; this answer names a folder that holds the archive alone.
compiler=$(command -v cc || command -v gcc || command -v clang) || die "no C compiler in PATH"
archive=$("$compiler" -print-file-name=libpcre2-8.a)
[ -f "$archive" ] || die "libpcre2-8.a is missing; apt-get install libpcre2-dev"
cp "$archive" "$scratch/pkgconfig/"
cat >"$scratch/pkgconfig/libpcre2-8.pc" <<PC
Name: libpcre2-8
Description: PCRE2, 8 bit, as a static archive
Version: 10
Libs: -L$PWD/$scratch/pkgconfig -lpcre2-8
Cflags:
PC

# shellcheck disable=SC2016
PKG_CONFIG_PATH=$PWD/$scratch/pkgconfig MINIMA_RPATH='$ORIGIN/torch/lib' swift build -c release \
    --scratch-path "$scratch" -Xswiftc -static-stdlib -Xcc "-ffile-prefix-map=$PWD/=" \
    -Xcxx "-ffile-prefix-map=$PWD/="

version=$("$products/minima" --version)
[[ $version =~ ^[0-9A-Za-z.+-]+$ ]] || die "minima --version printed '$version', no version number"
name=minima-$version-linux-$(uname -m)
new=dist/.new.$$
trap 'rm -rf "$new"' EXIT
rm -rf dist/.new.*
mkdir -p "$new/$name/licenses"

strip -o "$new/$name/minima" "$products/minima"
strip -o "$new/$name/libMinimaTorch.so" "$products/libMinimaTorch.so"
for bundle in "$products"/*.resources; do
    [ ! -d "$bundle" ] || cp -r "$bundle" "$new/$name/"
done

[ ! -f LICENSE ] || cp LICENSE "$new/$name/"
for package in "$scratch"/checkouts/*/; do
    package=${package%/}
    license=$package/LICENSE.txt
    [ -f "$license" ] || license=$package/LICENSE
    cp "$license" "$new/$name/licenses/${package##*/}.txt"
    [ ! -f "$package/NOTICE.txt" ] ||
        cp "$package/NOTICE.txt" "$new/$name/licenses/${package##*/}-notice.txt"
done
cp /usr/share/doc/libpcre2-dev/copyright "$new/$name/licenses/pcre2.txt"
runtime=$(swiftc -print-target-info | sed -n 's/.*"runtimeResourcePath": "\([^"]*\)".*/\1/p')
cp "$runtime/../../share/swift/LICENSE.txt" "$new/$name/licenses/swift.txt"

cat >"$new/$name/README" <<TEXT
Minima $version for Linux $(uname -m)

Needs libtorch 2.11.0 as the Python wheel lays it out. Any one of these will do:

  pip install --target . torch==2.11.0          beside this file: found by itself
  export MINIMA_TORCH=/path/to/site-packages/torch
  export LD_LIBRARY_PATH=/path/to/site-packages/torch/lib

Constrained answers of minima serve also need xgrammar in the folder that holds torch:

  pip install --no-deps --target . xgrammar==0.2.8 apache-tvm-ffi==0.1.11

Keep minima and libMinimaTorch.so in one folder. Then:  ./minima --help
TEXT

tar -C "$new" -czf "$new/$name.tar.gz" "$name"
rm -rf "dist/$name" "dist/$name.tar.gz"
mv "$new/$name" "$new/$name.tar.gz" dist/
du -h "dist/$name/minima" "dist/$name/libMinimaTorch.so" "dist/$name.tar.gz"
