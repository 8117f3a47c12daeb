#!/usr/bin/env bash
# Everything that a GPU is needed for, in one go: the GPU tests, then benchmarks, one JSON line each.
#
#   bash benchmarks/gpu.sh OUT                about 8 minutes on one GPU; lines in OUT/gpu.jsonl, logs beside it
#   bash benchmarks/gpu.sh OUT crf cam        these steps only
#   DEVICE=cpu bash benchmarks/gpu.sh OUT     a rehearsal on a CPU with small sizes
#
# Importing torch can take 20 seconds of each step on a machine that starts cold.
# Scans are phantoms that it draws itself, weights are the shipped ones, and packages to compare with are used if they
# are there. A step that fails or takes too long leaves a line that says so, and the next one goes on.
set -u
out=${1:?usage: bash benchmarks/gpu.sh OUT [STEP ...]}
shift
chosen=" $* "
device=${DEVICE:-cuda}
python=${PYTHON:-python}
mkdir -p "$out" || exit 2
cd "$(dirname "$0")/.." || exit 2
out=$(cd "$OLDPWD" && cd "$out" && pwd)
lines=$out/gpu.jsonl
: > "$lines"

if [ "$device" = cpu ]; then # small, to see that everything works
    crf=(--sizes 160 192 --slices 2 --rounds 1) pseudo=(--size 64 --slices 4 --rounds 1) cam=(--size 64 --slices 2 --rounds 1)
    network=(--rounds 2) segment=(--count 2 --size 96 --slices 12 --rounds 1) step=(--steps 1 --rounds 1 --size 64)
    maps=(--size 96 --rounds 1) patience=5
else # sizes that take seconds, and a few GiB of a card
    crf=(--sizes 384 512 --slices 32 --rounds 3) pseudo=(--size 384 --slices 32) cam=(--size 384 --slices 32)
    network=(--slices 16) segment=(--count 10 --rounds 1) step=(--steps 20)
    maps=(--size 384 --slices 4) patience=1
fi

peer() { # an option if a package is not there
    "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$1') is None)" || echo "$2"
}

# name, seconds at most, command: its last line is the result
step() {
    local name=$1 limit=$(($2 * patience)) began=$SECONDS code
    shift 2
    if [ "$chosen" != "  " ] && [[ "$chosen" != *" $name "* ]]; then return; fi
    timeout "$limit" "$@" > "$out/$name.log" 2> "$out/$name.err"
    code=$?
    if [ $code -eq 0 ] && tail -n 1 "$out/$name.log" | "$python" -m json.tool > /dev/null 2>&1; then
        tail -n 1 "$out/$name.log" >> "$lines"
    else
        printf '{"benchmark": "%s", "failed": %d}\n' "$name" "$code" >> "$lines"
    fi
    printf '%s: exit code %d, %d s\n' "$name" $code $((SECONDS - began))
}

tests() {
    "$python" -m pytest -q tests/test_gpu.py -p no:cacheprovider > "$out/pytest.log" 2>&1
    local code=$?
    printf '{"benchmark": "gpu_tests", "exit_code": %d, "said": "%s"}\n' $code "$(tail -n 1 "$out/pytest.log" | tr -d '"\\')"
}
export -f tests
export python out

step gpu_tests 150 bash -c tests
step crf 150 "$python" benchmarks/crf.py --device "$device" "${crf[@]}" $(peer pydensecrf --alone)
alone=$(peer torchcam --alone)
step pseudo_label 120 "$python" benchmarks/pseudo_label.py --device "$device" "${pseudo[@]}" ${alone:-$(peer pydensecrf --alone)}
step pseudo_label_bf16 60 "$python" benchmarks/pseudo_label.py --device "$device" --precision bf16 --alone "${pseudo[@]}"
step cam 90 "$python" benchmarks/cam.py --device "$device" "${cam[@]}"
step network 120 "$python" benchmarks/network.py --device "$device" "${network[@]}"
step segment 150 "$python" benchmarks/segment.py --device "$device" "${segment[@]}"
step segment_bf16 150 "$python" benchmarks/segment.py --device "$device" --precision bf16 "${segment[@]}"
step train_step 90 "$python" benchmarks/train_step.py --device "$device" "${step[@]}"
step train_step_bf16 90 "$python" benchmarks/train_step.py --device "$device" --precision bf16 "${step[@]}"
step hgi_sam 90 "$python" benchmarks/hgi_sam.py --device "$device" "${maps[@]}"
printf '%d s in all; %s\n' $SECONDS "$lines"
