#!/usr/bin/env bash
# Measures decoding on one GPU at a model's exact sizes with random weights, dense and compressed in one process
# and beside transformers: most of what README shows under "Decoding". Needs as much memory as the dense model in
# bfloat16 and its cache, 64 GiB for Qwen3-32B, 112 with 50 requests.
#
# usage: Scripts/bench-decode.sh [OUT]        accounts as JSON and report.html in OUT (bench-decode beside Scripts)
#   MODEL    directory with a config.json (Examples/qwen3-32b-shape)
#   MINIMA   the binary (.build/release/minima)
#   PYTHON   an interpreter with torch and transformers for the peer (python3); without them it is left out
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$root/bench-decode}
model=${MODEL:-$root/Examples/qwen3-32b-shape}
minima=${MINIMA:-$root/.build/release/minima}
python=${PYTHON:-python3}
[ -x "$minima" ] || {
    echo "bench-decode: $minima is no program; \`make build\` makes it, or name one in MINIMA" >&2
    exit 1
}
mkdir -p "$out"

# bench NAME OPTIONS...: a table, and its account as NAME.json.
bench() {
    local name=$1
    shift
    rm -f "$out/$name.json"
    printf '\n== %s: %s\n' "$name" "$*"
    "$minima" bench --sizes "$model" --steps 24 --repeats 3 --out "$out/$name.json" "$@"
}

peer=()
printf '\n== transformers, static cache, torch.compile\n'
rm -f "$out/transformers.json"
if "$python" -c 'import torch, transformers; assert torch.cuda.is_available()' &&
    "$python" "$root/Benchmarks/peers/decode_transformers.py" --model "$model" --json >"$out/.peer"; then
    mv "$out/.peer" "$out/transformers.json"
    peer=(--peer "$out/transformers.json")
else
    rm -f "$out/.peer"
    echo "bench-decode: nothing is measured beside; what $python needs says Benchmarks/peers/peer.py" >&2
fi

less=interpolative:0.383
bench one --weights dense $less $less@mlp dense:int8 dense:int4u dense:int4u+head8 $less@mlp:int8 \
    $less@mlp:int8+head8 $less@mlp:int4u $less@mlp:int4u+head8 "${peer[@]}"
bench one-float8 --kv-dtype float8 \
    --weights dense $less@mlp dense:int4u+head8 $less@mlp:int8+head8 $less@mlp:int4u+head8 \
    $less@mlp:int4u+head4u
bench fifty --kv-dtype float8 --requests 50 --weights dense $less $less@mlp
bench fifty-short --kv-dtype float8 --requests 50 --context 1024 --weights dense $less $less@mlp
printf '\n== the same bytes in other formats\n'
rm -f "$out/costs.json"
"$minima" bench --sizes "$model" --costs "$out/costs.json" --weights dense $less tucker:0.383 tt:0.383 tr:0.383 \
    tucker/split:0.383 tt/split:0.383 tr/split:0.383
"$minima" report "$out"/{one,one-float8,fifty,fifty-short,costs}.json --out "$out/report.html"
