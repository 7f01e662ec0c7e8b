#!/usr/bin/env bash
# Runs the tests that launch Minima's kernels under compute-sanitizer: accesses outside of what was
# allocated (memcheck), races in shared memory (racecheck), barriers (synccheck) and memory read before
# it was written (initcheck). Any report fails the run, and so does a tool that does not find the fault
# that is planted for it. Needs a GPU; minutes each, as kernels run many times slower.
#
# usage: Scripts/test-sanitizer.sh [TOOL...]
#   TESTS      the tests' binary (.build/debug/minimaPackageTests.xctest, built when it is left out)
#   SUITES     tests to run, an extended regular expression for MODULE.SUITE/TEST (those of GPU suites
#              of MinimaKernels and MinimaRuntime)
#   JOBS       tests at a time (4); each takes gigabytes of the GPU's memory for the tool's own ends
#   LIMIT      seconds a test may take (900)
#   LOGS       folder for the tools' reports (.build/sanitizer)
#   SANITIZER  compute-sanitizer (a pinned one under .deps/sanitizer, installed when it is left out)
set -euo pipefail
cd "$(dirname "$0")/.."
. Scripts/common.sh

tools=("$@")
[ ${#tools[@]} -gt 0 ] || tools=(memcheck racecheck synccheck initcheck)
export LIMIT=${LIMIT:-900} LOGS=${LOGS:-.build/sanitizer}
if [ -z "${SANITIZER:-}" ]; then
    requirements=Scripts/sanitizer-requirements.txt
    has_packages $requirements .deps/sanitizer || install_packages $requirements .deps/sanitizer
    SANITIZER=.deps/sanitizer/nvidia/cu13/compute-sanitizer/compute-sanitizer
fi
if [ -z "${TESTS:-}" ]; then
    swift build --build-tests
    TESTS=.build/debug/minimaPackageTests.xctest
fi
TESTS=$(realpath "$TESTS")
export TESTS SANITIZER
mkdir -p "$LOGS"

# One that compares times has nothing to compare when kernels run many times slower.
tests=$("$TESTS" --testing-library swift-testing --list-tests | sed -n 's/(.*//p' | sort -u |
    grep -E "${SUITES:-^Minima(Kernels|Runtime)Tests\..*GPU.*/}" |
    grep -Ev '/overlapSavesTime$|\.PlantedFaultGPUTests/') || {
    echo "test-sanitizer: no test matches SUITES" >&2
    exit 1
}

# libtorch's kernels and cuBLAS's are not ours to check, and run at their own speed unchecked.
KERNELS="planted $(cat Sources/CMinimaCUDA/cuda/*.cu | tr '\n' ' ' | grep -oE '__global__ void[^;{]*\(' |
    sed -E 's/^__global__ void +//; s/__launch_bounds__\([^()]*\) *//; s/^[A-Z_]+ +//; s/\(.*//' | tr '\n' ' ')"
export KERNELS

# run TOOL NAME FILTER: tests under a tool, its report in LOGS/TOOL.NAME.report.
run() {
    local kernel options=()
    for kernel in $KERNELS; do options+=(--kernel-name "kne=$kernel"); done
    # Calls that are refused on purpose, and the one that ends a list of parameters, are no faults.
    [ "$1" != memcheck ] || options+=(--report-api-errors no)
    timeout "$LIMIT" "$SANITIZER" --tool "$1" --error-exitcode 86 --print-limit 50 "${options[@]}" \
        --log-file "$LOGS/$1.$2.report" "$TESTS" --testing-library swift-testing --filter "$3" \
        >"$LOGS/$1.$2.tests" 2>&1
}

# What a tool counted: summary TOOL NAME
summary() { grep -hoE '(ERROR|RACECHECK) SUMMARY.*' "$LOGS/$1.$2.report" | tail -1; }

# check TOOL MODULE.SUITE/TEST: one line that says what was found; fails if it is anything.
check() {
    local name=${2#*.} began=$SECONDS status=0
    local log=${name/\//.}
    # libtorch's allocator cuts tensors from large blocks that it uses again. Memory that is a tensor's own
    # shows what is beyond its end, and what was not written. What captures graphs needs the allocator.
    case $1.$2 in
    *.GPUGraphTests/*) ;;
    memcheck.MinimaKernelsTests.* | initcheck.MinimaKernelsTests.*)
        export PYTORCH_NO_CUDA_MEMORY_CACHING=1
        ;;
    esac
    run "$1" "$log" "$name\(" || status=$?
    printf '%-10s %-66s %4d s  exit %-3d %s\n' "$1" "$name" $((SECONDS - began)) "$status" \
        "$(summary "$1" "$log")"
    [ "$status" -eq 0 ]
}
export -f run summary check

failed=0
for tool in "${tools[@]}"; do
    MINIMA_PLANTED=$tool PYTORCH_NO_CUDA_MEMORY_CACHING=1 run "$tool" planted PlantedFaultGPUTests || true
    if ! summary "$tool" planted | grep -Eq '[1-9][0-9]* (error|hazard)'; then
        echo "test-sanitizer: $tool does not find a planted fault; see $LOGS/$tool.planted.report" >&2
        exit 1
    fi
    xargs -P "${JOBS:-4}" -I {} bash -c "check $tool {}" <<<"$tests" || failed=1
done
exit "$failed"
