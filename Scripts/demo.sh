#!/usr/bin/env bash
# The whole road on the example model: inspect, compress, measure before and after, let both
# write, and a report. Needs no network and no data; everything lands in demo/.
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
formats=(lowrank tucker)

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

step "remove $ratio of the linear layers' parameters; the model writes its own calibration text"
for format in "${formats[@]}"; do
    run compress "$model" --out "$demo/$format" --ratio "$ratio" --format "$format" \
        --calibration self --samples 64 --context 256
    "$minima" inspect "$demo/$format" --json >"$demo/inspect-$format.json"
done

step "measure on a text that neither has seen"
for name in dense "${formats[@]}"; do
    [ "$name" = dense ] && each=$model || each=$demo/$name
    printf '$ minima eval %s --text %s --against %s\n' "$each" "$words" "$model"
    "$minima" eval "$each" --text "$words" --against "$model" --json >"$demo/eval-$name.json"
done

step "let them write"
for name in dense "${formats[@]}"; do
    [ "$name" = dense ] && each=$model || each=$demo/$name
    "$minima" generate "$each" --prompt "$prompt" --max-tokens 60 --temperature 0.7 --top-p 0.9 \
        --seed 1 --json >"$demo/sample-$name.json"
    printf '\n-- %s: %s%s\n' "$name" "$prompt" "$(text "$demo/sample-$name.json")"
done

step "before and after"
reports=("$demo"/inspect-*.json "$demo"/eval-*.json "$demo"/sample-*.json)
for format in "${formats[@]}"; do reports+=("$demo/$format/minima.json"); done
"$minima" report "${reports[@]}" --out "$demo/report.html" | tee "$demo/table.txt"
printf '\nThe report: %s (opens in any browser, offline)\n' "$demo/report.html"
