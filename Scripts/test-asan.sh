#!/usr/bin/env bash
# Runs the tests of the target that owns libtorch's handles under AddressSanitizer. A use after
# free, an overrun or a leak, in Swift or in the C++ layer, fails the run.
#
# usage: Scripts/test-asan.sh [FILTER]        FILTER as for `swift test --filter`
set -euo pipefail
cd "$(dirname "$0")/.."

# XCTest leaks objects of its own at exit, so it stays out; every test here is Swift Testing's.
# A test asks for more memory than there is: as malloc does, the sanitizer is to refuse, not to end.
# The linker warns about each of the sanitizer's own symbols.
MINIMA_SANITIZED=1 ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:allocator_may_return_null=1 \
    swift test --disable-xctest --sanitize=address --scratch-path .build/asan \
    --filter "${1:-MinimaTensorTests}" 2>&1 |
    { grep --line-buffered -v 'ld.gold: warning: Cannot export local symbol' || true; }
