#!/usr/bin/env bash
# Runs the GPU's test suites under compute-sanitizer: accesses outside of what was allocated
# (memcheck), races in shared memory (racecheck), barriers (synccheck) and memory read before it was
# written (initcheck). Any report fails the run. Needs a GPU and compute-sanitizer (CUDA toolkit, or
# `pip install nvidia-cuda-sanitizer-api`); minutes each, as kernels run many times slower.
#
# usage: Scripts/test-sanitizer.sh [TOOL...]
#   TESTS   the tests' binary (.build/debug/minimaPackageTests.xctest, built when it is left out)
#   SUITES  suites to run (all with GPU in their name)
#   JOBS    suites at a time (4)
#   LIMIT   seconds a suite may take (900)
#   LOGS    folder for the tools' reports (.build/sanitizer)
set -euo pipefail
cd "$(dirname "$0")/.."

tools=("$@")
[ ${#tools[@]} -gt 0 ] || tools=(memcheck racecheck synccheck initcheck)
export LIMIT=${LIMIT:-900} LOGS=${LOGS:-.build/sanitizer}
if ! command -v compute-sanitizer >/dev/null; then
    echo "test-sanitizer: compute-sanitizer is not on the PATH; it comes with the CUDA toolkit or" \
        "with pip's nvidia-cuda-sanitizer-api" >&2
    exit 1
fi
if [ -z "${TESTS:-}" ]; then
    swift build --build-tests
    TESTS=.build/debug/minimaPackageTests.xctest
fi
TESTS=$(realpath "$TESTS")
export TESTS
SUITES=${SUITES:-$(grep -rhoE '(^| )(struct|class|actor) [A-Za-z0-9]*GPU[A-Za-z0-9]*Tests' Tests | sed 's/.* //' | sort -u)}
mkdir -p "$LOGS"

# check TOOL SUITE: one line that says what was found; fails if it is anything.
check() {
    local log=$LOGS/$1.$2 began=$SECONDS status=0
    # With a lane's arrival at a barrier racecheck takes that lane's own accesses for ordered, not those
    # of lanes that it has synchronised with: in this run every lane arrives, all else is the same.
    [ "$1" != racecheck ] || export MINIMA_RACECHECK=1
    # Calls that are refused on purpose, and the one that ends a list of parameters, are no faults.
    timeout "$LIMIT" compute-sanitizer --tool "$1" --error-exitcode 86 --print-limit 50 \
        --report-api-errors no --log-file "$log.report" "$TESTS" --testing-library swift-testing --filter "$2" \
        >"$log.tests" 2>&1 || status=$?
    printf '%-10s %-28s %4d s  exit %-3d %s\n' "$1" "$2" $((SECONDS - began)) "$status" \
        "$(grep -hoE 'ERROR SUMMARY.*|RACECHECK SUMMARY.*' "$log.report" | tail -1)"
    [ "$status" -eq 0 ]
}
export -f check

failed=0
for tool in "${tools[@]}"; do
    # shellcheck disable=SC2086
    printf '%s\n' $SUITES | xargs -P "${JOBS:-4}" -I {} bash -c "check $tool {}" || failed=1
done
exit "$failed"
