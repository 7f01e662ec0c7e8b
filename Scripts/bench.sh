#!/usr/bin/env bash
# Times the main commands on one model: median, smallest and largest of RUNS wall-clock times,
# and the evaluation's tokens per second. States the machine, as every speed claim must.
#
# usage: Scripts/bench.sh [MODEL [TEXT]]        RUNS=5 by default
set -euo pipefail
cd "$(dirname "$0")/.."

model=${1:-Examples/tiny-qwen3-4m}
text=${2:-Examples/text.txt}
runs=${RUNS:-5}
minima=.build/release/minima
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# time_of NAME COMMAND...: one line with the spread; leaves the median in $median.
time_of() {
    local name=$1 start times=() run
    shift
    for ((run = 0; run < runs; run++)); do
        rm -rf "$work/out"
        start=$EPOCHREALTIME
        "$@" >"$work/stdout"
        times+=("$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.3f", b - a }')")
    done
    read -r -a times <<<"$(printf '%s\n' "${times[@]}" | sort -n | tr '\n' ' ')"
    median=${times[$((runs / 2))]}
    printf '%-28s median %8s s   (%s ... %s, %d runs)\n' \
        "$name" "$median" "${times[0]}" "${times[-1]}" "$runs"
}

echo "machine: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores"
echo "model:   $model"
time_of inspect "$minima" inspect "$model"
time_of eval "$minima" eval "$model" --text "$text" --json
tokens=$(sed -n 's/.*"tokens" *: *\([0-9]*\).*/\1/p' "$work/stdout" | head -n 1)
awk -v n="$tokens" -v t="$median" 'BEGIN { printf "%-28s %.0f tokens/s\n", "", n / t }'
time_of "compress 0.35 (self)" \
    "$minima" compress "$model" --out "$work/out" --ratio 0.35 --calibration self
time_of "generate 100 tokens" "$minima" generate "$model" --prompt "Once" --max-tokens 100 --seed 1
