#!/usr/bin/env bash
# Packs the release build as dist/minima-<version>-linux-<arch>/ and its .tar.gz, where libtorch is found
# at run time.
set -euo pipefail
cd "$(dirname "$0")/.."
. Scripts/common.sh

products=.build/release
requirements=Scripts/dist-requirements.txt
has_packages $requirements .deps/dist || install_packages $requirements .deps/dist
Scripts/build.sh

version=$("$products/minima" --version)
[[ $version =~ ^[0-9A-Za-z.+-]+$ ]] || {
    echo "dist: error: minima --version printed '$version', no version number" >&2
    exit 1
}
name=minima-$version-linux-$(uname -m)
new=dist/.new.$$
trap 'rm -rf "$new"' EXIT
rm -rf dist/.new.*
mkdir -p "$new/$name/licenses"

strip -o "$new/$name/minima" "$products/minima"
strip -o "$new/$name/libMinimaTorch.so" "$products/libMinimaTorch.so"
# shellcheck disable=SC2016 — the loader's word, not the shell's
.deps/dist/bin/patchelf --set-rpath '$ORIGIN/torch/lib' "$new/$name/libMinimaTorch.so"
for bundle in "$products"/*.resources; do
    [ ! -d "$bundle" ] || cp -r "$bundle" "$new/$name/"
done

[ ! -f LICENSE ] || cp LICENSE "$new/$name/"
for package in .build/checkouts/*/; do
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
