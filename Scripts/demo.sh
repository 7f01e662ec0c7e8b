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
text=Examples/text.txt
prompt="Once upon a time"
demo=demo
small=$demo/tiny-qwen3-4m-lowrank

step() { printf '\n== %s\n' "$*"; }
# The number that stands under a key of a JSON file.
number() { sed -n "s/.*\"$2\" *: *\([-+0-9.eE]*\).*/\1/p" "$1" | head -n 1; }
bytes() { cat "$1"/*.safetensors | wc -c; }

rm -rf "$demo"
mkdir -p "$demo"

step "inspect $model"
"$minima" inspect "$model"

step "compress: remove $ratio of the linear layers' parameters, calibrated on the model's own text"
"$minima" compress "$model" --out "$small" --ratio "$ratio" --calibration self

step "evaluate both on $text"
"$minima" eval "$model" --text "$text" --json >"$demo/eval-dense.json"
"$minima" eval "$small" --text "$text" --against "$model" --json >"$demo/eval-compressed.json"

for each in "$model" "$small"; do
    step "generate with $each"
    "$minima" generate "$each" --prompt "$prompt" --max-tokens 60 --temperature 0.8 --seed 1 |
        tee "$demo/sample-$(basename "$each").txt"
done

step "before and after"
{
    printf '%-12s %12s %12s %12s\n' "" bytes perplexity "KL per token"
    printf '%-12s %12d %12.2f %12s\n' dense "$(bytes "$model")" \
        "$(number "$demo/eval-dense.json" perplexity)" -
    printf '%-12s %12d %12.2f %12.4f\n' compressed "$(bytes "$small")" \
        "$(number "$demo/eval-compressed.json" perplexity)" \
        "$(number "$demo/eval-compressed.json" kl)"
} | tee "$demo/table.txt"

step "report"
"$minima" report "$small" --out "$demo/report.html"
echo "open $demo/report.html in a browser"
