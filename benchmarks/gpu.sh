#!/usr/bin/env bash
# Everything that a GPU is needed for, in one go: the GPU tests, then benchmarks, one JSON line each.
#
#   bash benchmarks/gpu.sh OUT                at most 8 minutes on one GPU; lines in OUT/gpu.jsonl, logs beside it
#   bash benchmarks/gpu.sh OUT                again: the steps that have no result in OUT yet
#   bash benchmarks/gpu.sh OUT crf cam        these steps only
#   LIMIT=900 bash benchmarks/gpu.sh OUT      more seconds: a machine that starts cold needs 20 of each step for torch
#   DEVICE=cpu bash benchmarks/gpu.sh OUT     a rehearsal on a CPU with small sizes
#
# Scans are phantoms that it draws itself, weights are the shipped ones, and packages to compare with are used if they
# are there. A step that fails or takes too long leaves a line that says so, and the next one goes on.
set -u
out=${1:?usage: bash benchmarks/gpu.sh OUT [STEP ...]}
shift
chosen=" $* "
device=${DEVICE:-cuda}
python=${PYTHON:-$(command -v python3 || command -v python)}
mkdir -p "$out" || exit 2
cd "$(dirname "$0")/.." || exit 2
out=$(cd "$OLDPWD" && cd "$out" && pwd)
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
lines=$out/gpu.jsonl

if [ "$device" = cpu ]; then # small, to see that everything works
    crf=(--sizes 160 192 --slices 2 --rounds 1) pseudo=(--size 64 --slices 4 --rounds 1) cam=(--size 64 --slices 2 --rounds 1)
    phantoms=(--size 96 --slices 12) folder=(--count 2 --rounds 1) step=(--steps 1 --rounds 1 --size 64)
    maps=(--size 96 --rounds 1) network=(--rounds 2) patience=5 limit_of_all=${LIMIT:-2400}
else # sizes that take seconds, and a few GiB of a card
    crf=(--sizes 384 512 --slices 32 --rounds 3) pseudo=(--size 384 --slices 32) cam=(--size 384 --slices 32)
    phantoms=(--size 512 --slices 34) folder=(--count 10 --rounds 1) step=(--steps 20)
    maps=(--size 384 --slices 4) network=(--slices 16) patience=1 limit_of_all=${LIMIT:-480}
fi

peer() { # an option if a package is not there
    "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$1') is None)" || echo "$2"
}

wanted() {
    [ ! -s "$out/$1.json" ] && { [ "$chosen" = "  " ] || [[ "$chosen" = *" $1 "* ]]; }
}

# name, seconds at most, command: its last line is the result, of a step that is cut off as far as it came
step() {
    local name=$1 limit=$(($2 * patience)) left=$((limit_of_all - SECONDS)) began=$SECONDS code
    shift 2
    wanted "$name" || return
    if [ $left -lt 20 ]; then
        printf '%s: no time left\n' "$name"
        return
    fi
    timeout $((limit < left ? limit : left)) "$@" > "$out/$name.log" 2> "$out/$name.err"
    code=$?
    if ! tail -n 1 "$out/$name.log" | "$python" -c '
import json, sys
found = json.load(sys.stdin)
print(json.dumps(found if sys.argv[2] == "0" else {**found, "step": sys.argv[1], "failed": int(sys.argv[2])}))
' "$name" $code > "$out/$name.part" 2> /dev/null; then
        printf '{"benchmark": "%s", "failed": %d}\n' "$name" $code > "$out/$name.part"
    fi
    cat "$out/$name.part" >> "$lines"
    [ $code -eq 0 ] && mv "$out/$name.part" "$out/$name.json"
    printf '%s: exit code %d, %d s\n' "$name" $code $((SECONDS - began))
}

tests() {
    "$python" -m pytest -q tests/test_gpu.py -p no:cacheprovider > "$out/pytest.log" 2>&1
    local code=$?
    printf '{"benchmark": "gpu_tests", "exit_code": %d, "said": "%s"}\n' $code "$(tail -n 1 "$out/pytest.log" | tr -d '"\\')"
    return $code
}
export -f tests
export python out

draw() { # a phantom takes 10 s of one core: several at once, while the first steps run
    local number
    for number in 0 1 2 3 4; do
        "$python" -m ichseg prepare phantom "$out/phantoms/$number" --scans 2 --seed $number "${phantoms[@]}" &
    done
    wait
    mkdir -p "$out/scans"
    for number in 0 1 2 3 4; do
        for scan in "$out/phantoms/$number/images"/*.nii.gz; do mv "$scan" "$out/scans/${number}_${scan##*/}"; done
    done
}

drawing=
if { wanted segment || wanted segment_bf16; } && [ ! -d "$out/scans" ]; then
    rm -rf "$out/phantoms"
    draw > "$out/phantoms.log" 2>&1 &
    drawing=$!
fi

# What was never measured first; what takes longest to start last.
step gpu_tests 150 bash -c tests
step crf 120 "$python" benchmarks/crf.py --device "$device" --partial "${crf[@]}" $(peer pydensecrf --alone)
alone=$(peer torchcam --alone)
step pseudo_label 90 "$python" benchmarks/pseudo_label.py --device "$device" "${pseudo[@]}" ${alone:-$(peer pydensecrf --alone)}
[ -z "$drawing" ] || wait $drawing
step segment 120 "$python" benchmarks/segment.py --device "$device" --scans "$out/scans" "${folder[@]}"
step train_step 90 "$python" benchmarks/train_step.py --device "$device" "${step[@]}"
step train_step_bf16 90 "$python" benchmarks/train_step.py --device "$device" --precision bf16 "${step[@]}"
step network 60 "$python" benchmarks/network.py --device "$device" "${network[@]}" --only torch "torch bf16" TensorRT
step cam 90 "$python" benchmarks/cam.py --device "$device" "${cam[@]}"
step segment_bf16 120 "$python" benchmarks/segment.py --device "$device" --scans "$out/scans" --precision bf16 "${folder[@]}"
step pseudo_label_bf16 90 "$python" benchmarks/pseudo_label.py --device "$device" --precision bf16 --alone "${pseudo[@]}"
step hgi_sam 90 "$python" benchmarks/hgi_sam.py --device "$device" "${maps[@]}"
step compiled 240 "$python" benchmarks/network.py --device "$device" "${network[@]}" \
    --only torch compiled "compiled bf16" "CUDA graphs" "CUDA graphs bf16"
printf '%d s in all; %s\n' $SECONDS "$lines"
