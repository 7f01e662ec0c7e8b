#!/usr/bin/env bash
# Unpacks the archive of `make dist` elsewhere and runs it as a user would: without libtorch, with
# something else under libtorch's name, and with libtorch found in each of the three ways.
#
# usage: Scripts/check-dist.sh [MODEL]
set -euo pipefail
cd "$(dirname "$0")/.."

model=$(realpath "${1:-Examples/tiny-qwen3-4m}")
torch=$(realpath "${MINIMA_TORCH:-.deps/site-packages/torch}")
archives=(dist/minima-*-linux-"$(uname -m)".tar.gz)
if [ ${#archives[@]} -ne 1 ] || [ ! -f "${archives[0]}" ]; then
    echo "check-dist: wanted one archive in dist/, found: ${archives[*]}; run make dist" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -C "$work" -xzf "${archives[0]}"
root=$(echo "$work"/minima-*)
printf 'The old door opened on a small town by the sea. %.0s' {1..8} >"$work/text"

failed=0
ok() { echo "ok      $1"; }
wrong() {
    echo "WRONG   $1"
    failed=1
}

# run NAME STATUS PATTERN [VARIABLE=VALUE...]: evaluates a sentence in an otherwise empty
# environment; the exit status and one line of what it prints must be as expected.
run() {
    local name=$1 status=$2 pattern=$3 found=0
    shift 3
    env -i PATH=/usr/bin:/bin HOME="$work" "$@" "$root/minima" eval "$model" --text "$work/text" \
        --context 16 --json </dev/null >"$work/output" 2>&1 || found=$?
    if [ "$found" -eq "$status" ] && grep -q -E -- "$pattern" "$work/output"; then
        ok "$name: exit $found, $(grep -m 1 -E -- "$pattern" "$work/output")"
    else
        wrong "$name: exit $found, wanted $status and a line with '$pattern'; it printed:"
        sed 's/^/        /' "$work/output"
    fi
}

for file in minima libMinimaTorch.so; do
    if readelf -d "$root/$file" | grep -E '(RPATH|RUNPATH)' | grep -q '[:[]/'; then
        wrong "$file: absolute run path: $(readelf -d "$root/$file" | grep -E '(RPATH|RUNPATH)')"
    elif readelf -d "$root/$file" | grep NEEDED | grep -q -E 'libswift|libFoundation|libpcre2'; then
        wrong "$file: needs the Swift runtime or PCRE2 of the system"
    elif grep -q -a -F -- "$PWD" "$root/$file"; then
        wrong "$file: holds the path of the build folder"
    else
        ok "$file: no absolute path, no Swift runtime, no PCRE2 library"
    fi
done
if readelf -d "$root/minima" | grep NEEDED | grep -q -E 'libtorch|libc10'; then
    wrong "minima: the dynamic linker needs libtorch to start it"
else
    ok "minima: starts without libtorch"
fi

run "libtorch absent" 1 "2\.11\.0"
mkdir -p "$work/empty/lib"
run "MINIMA_TORCH names an empty package" 1 "2\.11\.0" MINIMA_TORCH="$work/empty"
for name in libtorch_cpu.so libc10.so; do
    cc -shared -Wl,-soname,$name -o "$work/empty/lib/$name" -x c /dev/null
done
run "another library under libtorch's name" 1 "2\.11\.0" MINIMA_TORCH="$work/empty"
mkdir -p "$work/other/lib"
# What libtorch answers since 2.4: major, minor and patch in the three highest bytes.
echo 'unsigned long aoti_torch_abi_version(void) { return 0x020D000000000000; }' |
    cc -shared -fPIC -Wl,-soname,libtorch_cpu.so -o "$work/other/lib/libtorch_cpu.so" -x c -
cp "$work/empty/lib/libc10.so" "$work/other/lib/"
run "another version in MINIMA_TORCH" 1 "2\.11\.0 is needed, 2\.13\.0" \
    MINIMA_TORCH="$work/other"
run "another version in LD_LIBRARY_PATH" 1 "2\.11\.0 is needed, 2\.13\.0" \
    LD_LIBRARY_PATH="$work/other/lib"
if [ -n "${OTHER_TORCH:-}" ]; then
    run "OTHER_TORCH" 1 "2\.11\.0 is needed" MINIMA_TORCH="$OTHER_TORCH"
fi
run "MINIMA_TORCH" 0 perplexity MINIMA_TORCH="$torch"
run "LD_LIBRARY_PATH" 0 perplexity LD_LIBRARY_PATH="$torch/lib"
ln -s "$torch" "$root/torch"
run "torch beside the binary" 0 perplexity
exit "$failed"
