#!/usr/bin/env bash
# Times evaluation beside transformers and tokenising beside tokenizers, on one model and text.
#
# usage: Scripts/bench-peers.sh [MODEL [TEXT]]        PYTHON=python3 THREADS=2 by default
set -euo pipefail
cd "$(dirname "$0")/.."

model=${1:-Examples/tiny-qwen3-4m}
text=${2:-Examples/text.txt}
python=${PYTHON:-python3}
threads=${THREADS:-2}
minima=.build/release/minima

if ! "$python" -c 'import tokenizers, torch, transformers' 2>/dev/null; then
    echo "bench-peers: $python lacks the packages to compare with; install them with" >&2
    echo "    $python -m $(sed -n 's/^ *\(pip install .*\)/\1/p' Benchmarks/peers/peer.py)" >&2
    echo "or name another interpreter in PYTHON" >&2
    exit 1
fi

echo "== evaluation, $threads threads"
"$python" Benchmarks/peers/compare_eval.py --minima "$minima" --model "$model" --text "$text" \
    --threads "$threads"
echo
echo "== tokenising, one thread"
"$python" Benchmarks/tokenizer/bench_tokenizer.py --minima "$minima" "$model" "$text"
