#!/usr/bin/env bash
# Runs the tests that launch Minima's kernels under compute-sanitizer: accesses outside of what was
# allocated (memcheck), races in shared memory (racecheck), barriers (synccheck) and memory read before
# it was written (initcheck). Any report fails the run, and so does a tool that does not find the fault
# that is planted for it. Needs a GPU and many minutes, as kernels run many times slower; all GPUs of the
# machine (or of CUDA_VISIBLE_DEVICES) share the tests. What was found clean is kept in LOGS and not run
# again until the tests, libraries, tool, script, GPUs or their driver change; remove LOGS to run everything.
#
# usage: Scripts/test-sanitizer.sh [TOOL...]
#   FILTER     tests to run, an extended regular expression for MODULE.SUITE/TEST (those of GPU suites
#              of MinimaKernels and MinimaRuntime, but for suites with kernels of their own)
#   JOBS       tests at a time on each GPU (4); each takes gigabytes of its memory for the tool's own ends, and
#              under racecheck two processors and up to 45 GB of the host
#   LIMIT      seconds a test may take (900); a planted fault has 120
#   LOGS       folder for the tools' reports, and for what is clean (.build/sanitizer)
#   TESTS      the tests' binary (.build/debug/minimaPackageTests.xctest, built when it is left out)
#   SANITIZER  compute-sanitizer 2026.4 or newer (that of Scripts/sanitizer-requirements.txt, installed
#              under .deps/sanitizer, when it is left out)
set -euo pipefail
cd "$(dirname "$0")/.."
. Scripts/common.sh

fail() {
    echo "test-sanitizer: $*" >&2
    exit 1
}

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

listed=$("$TESTS" --testing-library swift-testing --list-tests) || fail "$TESTS does not list its tests"
# Whole models first: some of those take longest.
tests=$(sed -n 's/(.*//p' <<<"$listed" | sort -u -t. -k1,1r -k2 |
    grep -E "${FILTER:-^Minima(Kernels|Runtime)Tests\..*GPU.*/}" |
    grep -Ev '\.(GPUKernel|GPUGraph|PlantedFaultGPU)Tests/') || fail "no test matches FILTER"

# libtorch's kernels and cuBLAS's are not ours to check, and run at their own speed unchecked.
KERNELS=$(cat Sources/CMinimaCUDA/cuda/*.cu | tr '\n' ' ' | grep -oE '__global__ void[^;{]*\(' |
    sed -E 's/^__global__ void +//; s/__launch_bounds__\([^()]*\) *//; s/^[A-Z_]+ +//; s/\(.*//')
declared=$(cat Sources/CMinimaCUDA/cuda/*.cu | grep -o __global__ | wc -l)
[ "$(grep -cE '^[a-z][a-z_0-9]*$' <<<"$KERNELS")" = "$declared" ] ||
    fail "found other names than those of the $declared kernels:" $KERNELS
KERNELS="planted $(tr '\n' ' ' <<<"$KERNELS")"
export KERNELS

GPUS=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=uuid --format=csv,noheader | paste -sd,)} ||
    fail "nvidia-smi does not list this machine's GPUs; name them in CUDA_VISIBLE_DEVICES"
[ -n "$GPUS" ] || fail "this machine has no GPU"
# A clean result holds for these.
KEY=$({
    cat "$TESTS" "$(dirname "$TESTS")/libMinimaTorch.so" Scripts/test-sanitizer.sh Scripts/*requirements.txt \
        Examples/tiny-qwen3-4m/* ${MINIMA_TORCH:+"$MINIMA_TORCH/version.py"} && "$SANITIZER" --version &&
        { nvidia-smi -i "$GPUS" --query-gpu=name,driver_version --format=csv,noheader || echo "$GPUS"; } | sort -u
} | sha256sum) || fail "cannot read $TESTS or libMinimaTorch.so beside it, or run $SANITIZER"
export GPUS KEY

# Processes that share a GPU take turns, each with all of it, and launches last many times as long; under CUDA's
# multi-process service (MPS) they run side by side. A fault on the GPU then ends the tests beside it too; none is
# clean for that, and all run again the next time.
mps=
end_mps() {
    [ -n "$mps" ] || return 0
    echo quit | nvidia-cuda-mps-control >/dev/null 2>&1 || true
    cp "$mps"/*.log "$LOGS" 2>/dev/null || true
    rm -rf "$mps" || true
    mps=
    unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
}
if [ ! -e "${CUDA_MPS_PIPE_DIRECTORY:-/tmp/nvidia-mps}/control" ] &&
    command -v nvidia-cuda-mps-control >/dev/null; then
    rm -f "$LOGS/mps.tests"
    mps=$(mktemp -d) # a socket's path has 108 bytes at most
    export CUDA_MPS_PIPE_DIRECTORY=$mps CUDA_MPS_LOG_DIRECTORY=$mps
    trap end_mps EXIT
    # It sees all GPUs, so that the numbers in CUDA_VISIBLE_DEVICES mean the same to it and to tests.
    if ! env -u CUDA_VISIBLE_DEVICES nvidia-cuda-mps-control -d ||
        ! CUDA_VISIBLE_DEVICES=${GPUS%%,*} timeout --foreground 60 "$TESTS" --testing-library swift-testing \
            --filter 'ElementwiseGPUTests/rowsAreGathered\(' >"$LOGS/mps.tests" 2>&1 ||
        grep -q ' skipped[.:]' "$LOGS/mps.tests"; then
        end_mps
        echo "test-sanitizer: MPS does not work here, so tests that share a GPU take turns; see mps.tests and" \
            "control.log in $LOGS" >&2
    fi
fi
at_once=$((${JOBS:-4} * $(tr , '\n' <<<"$GPUS" | wc -l)))

# run TOOL NAME FILTER: tests under a tool, its report in LOGS/TOOL.NAME.report.
run() {
    local kernel options=()
    for kernel in $KERNELS; do options+=(--kernel-name "kne=$kernel"); done
    # 2026.4 crashes at times where a graph is launched while another runs.
    options+=(--force-synchronization-limit 1)
    # Calls that are refused on purpose, and the one that ends a list of parameters, are no faults.
    [ "$1" != memcheck ] || options+=(--report-api-errors no)
    # What unchecked kernels write is written.
    [ "$1" != initcheck ] || options+=(--initcheck-track-filtered-global-memory yes)
    rm -f "$LOGS/$1.$2.report" "$LOGS/$1.$2.clean"
    timeout -k 30 "$LIMIT" "$SANITIZER" --tool "$1" --error-exitcode 86 --print-limit 50 "${options[@]}" \
        --log-file "$LOGS/$1.$2.report" "$TESTS" --testing-library swift-testing --filter "$3" \
        >"$LOGS/$1.$2.tests" 2>&1 &
    # Its processes are a group of their own, which signals to this one do not reach.
    trap "kill $!; exit 130" INT TERM
    local status=0
    wait $! || status=$?
    trap - INT TERM
    return "$status"
}

# check TOOL MODULE.SUITE/TEST: one line that says what was found, none for what is kept as clean; fails if
# anything was found, or if the tool could not look.
check() {
    local log=${2/\//.} began=$SECONDS status=0 summary gpus
    local report=$LOGS/$1.$log.report
    [ "$(cat "$LOGS/$1.$log.clean" 2>/dev/null)" != "$KEY" ] || return 0
    IFS=, read -ra gpus <<<"$GPUS"
    export CUDA_VISIBLE_DEVICES=${gpus[SLOT % ${#gpus[@]}]}
    # libtorch's allocator cuts tensors from large blocks that it uses again. Memory that is a tensor's own
    # shows what is beyond its end, and what was not written. Whole models capture graphs, which need it.
    case $1.$2 in
    memcheck.MinimaKernelsTests.* | initcheck.MinimaKernelsTests.*)
        export PYTORCH_NO_CUDA_MEMORY_CACHING=1
        ;;
    esac
    # Kernels do not overlap in this run. Under racecheck every thread arrives at barriers for itself and
    # fences what it read (common.cuh).
    export MINIMA_CUDA_TOOL=$1
    run "$1" "$log" "$2\(" || status=$?
    summary=$(grep -shoE '(ERROR|RACECHECK) SUMMARY.*' "$report" | tail -1) || true
    if grep -sq "Internal Sanitizer Error" "$report"; then
        summary="not all launches were checked, for lack of the GPU's memory perhaps; lower JOBS"
    elif grep -sq ' skipped[.:]' "$LOGS/$1.$log.tests"; then
        summary="skipped; can GPU $CUDA_VISIBLE_DEVICES be used?"
    elif [ "$status" != 0 ] && ((SECONDS - began >= LIMIT)); then
        summary="ended by the limit of $LIMIT s"
    elif [ "$status" = 9 ] || [ "$status" = 137 ]; then # 9 is what the tool makes of a killed test
        summary="killed, for lack of the host's memory perhaps; lower JOBS"
    fi
    printf '%-10s %-84s %4d s  exit %-3d %s\n' "$1" "$2" $((SECONDS - began)) "$status" "$summary"
    [ "$status" -eq 0 ] && [[ $summary =~ SUMMARY:\ 0\ (errors|hazards) ]] && echo "$KEY" >"$LOGS/$1.$log.clean"
}
export -f run check

# What a tool says of the fault that is planted for it.
declare -A finding=(
    [memcheck]='Invalid __global__ write' [racecheck]='Race reported' [synccheck]='Barrier error'
    [initcheck]='Uninitialized __global__'
)
wanted=$(for tool in "${tools[@]}"; do sed "s/^/$tool /" <<<"$tests"; done)
# How many of the wanted are clean.
clean() {
    local tool test count=0
    while read -r tool test; do
        [ "$(cat "$LOGS/$tool.${test/\//.}.clean" 2>/dev/null)" != "$KEY" ] || count=$((count + 1))
    done <<<"$wanted"
    echo "$count"
}

failed=0
kept=$(clean)
for tool in "${tools[@]}"; do
    MINIMA_PLANTED=$tool PYTORCH_NO_CUDA_MEMORY_CACHING=1 LIMIT=120 \
        run "$tool" planted PlantedFaultGPUTests || true
    grep -sq "${finding[$tool]:-no such tool}" "$LOGS/$tool.planted.report" ||
        fail "$tool does not find a planted fault within 120 s; see $LOGS/$tool.planted.report"
done
xargs -P "$at_once" --process-slot-var SLOT -L 1 bash -c 'check "$@"' check <<<"$wanted" &
queue=$!
stop() {
    # Those that run are found before the queue, which starts them, is gone.
    # shellcheck disable=SC2046
    kill "$queue" $(pgrep -P "$queue") 2>/dev/null || true
    exit 130
}
trap stop INT TERM
wait "$queue" || failed=1
trap - INT TERM
echo "test-sanitizer: $(clean) of $(wc -l <<<"$wanted") are clean, $kept of them since an earlier run;" \
    "reports are in $LOGS"
exit "$failed"
