#!/usr/bin/env bash
# The whole road on the example model: analyze, plan, compress, heal, measure before and after, let
# all write, and a report. Needs no network and no data; everything lands in demo/.
#
# usage: Scripts/demo.sh [RATIO]        share of the linear layers' parameters to remove (0.35)
set -euo pipefail
cd "$(dirname "$0")/.."

ratio=${1:-0.35}
minima=.build/release/minima
model=Examples/tiny-qwen3-4m
words=Examples/text.txt
prompt="The old house by the river"
demo=demo
calibration=(--calibration self --samples 64 --context 256)
# Plans by name: what they aim at, and what they choose from.
plans=(factored tensor-networks 4.5-bits)
declare -A choices=(
    [factored]="--ratio $ratio --formats factored"
    [tensor-networks]="--ratio $ratio --formats tn"
    [4.5-bits]="--bits-per-weight 4.5"
)

step() { printf '\n== %s\n' "$*"; }
# Says what is run, then runs it.
run() {
    printf '$ minima %s\n' "$*"
    "$minima" "$@"
}

# The text that a generation's JSON holds.
text() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["text"])' "$1"; }

rm -rf "$demo"
mkdir -p "$demo"

step "what the model is made of"
run inspect "$model"
"$minima" inspect "$model" --json >"$demo/inspect-dense.json"

step "learn where it can be compressed; the model writes its own calibration text"
run analyze "$model" --out "$demo/analysis" --probes 64 --probe-windows 4 "${calibration[@]}"

step "choose formats and ranks"
for name in "${plans[@]}"; do
    # shellcheck disable=SC2086 — several options in one string
    run plan "$demo/analysis" --out "$demo/plan-$name.json" ${choices[$name]} --explain
done

step "compress: every layer alike for comparison, then by the plans"
run compress "$model" --out "$demo/uniform" --ratio "$ratio" --format lowrank "${calibration[@]}"
for name in "${plans[@]}"; do
    run compress "$model" --out "$demo/$name" --plan "$demo/plan-$name.json" \
        --analysis "$demo/analysis" "${calibration[@]}"
done

step "heal the tensor networks; the dense model writes the text they train on"
run heal "$demo/tensor-networks" --teacher "$model" --out "$demo/healed" --text self \
    --self-windows 256 --context 256 --block-windows 192 --block-epochs 3 --tokens 98304

step "measure on a text that none has seen"
for name in dense uniform "${plans[@]}" healed; do
    [ "$name" = dense ] && each=$model || each=$demo/$name
    printf '$ minima eval %s --text %s --against %s\n' "$each" "$words" "$model"
    "$minima" eval "$each" --text "$words" --against "$model" --json >"$demo/eval-$name.json"
done

step "let them write"
for name in dense "${plans[@]}" healed; do
    [ "$name" = dense ] && each=$model || each=$demo/$name
    "$minima" generate "$each" --prompt "$prompt" --max-tokens 60 --temperature 0.7 --top-p 0.9 \
        --seed 1 --json >"$demo/sample-$name.json"
    printf '\n-- %s: %s%s\n' "$name" "$prompt" "$(text "$demo/sample-$name.json")"
done

step "before and after"
reports=("$demo"/inspect-*.json "$demo/analysis/analysis.json" "$demo"/eval-*.json
    "$demo"/sample-*.json)
for name in uniform "${plans[@]}" healed; do reports+=("$demo/$name/minima.json"); done
"$minima" report "${reports[@]}" --out "$demo/report.html" | tee "$demo/table.txt"
printf '\nThe report: %s (opens in any browser, offline)\n' "$demo/report.html"
