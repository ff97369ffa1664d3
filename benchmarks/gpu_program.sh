#!/usr/bin/env bash
# All that a quarter of an hour with a GPU can tell, in one command of at most nine minutes.
#
#   benchmarks/gpu_program.sh OUT [--rehearse]
#
#   IMAGES=FILE.tar.gz   CIFAR-10 as train/CLASS/ and test/CLASS/; without it the study is left out
#   WHEELS=FOLDER        packages that the machine lacks: pydantic, ruamel.yaml and what they need
#   PYTHON=python3
#
# The machine needs Python, torch, torchvision, timm, scikit-learn, matplotlib and safetensors, and
# no network. After each part OUT holds results.tar.gz with all that is there by then, the logs
# beside it: a cut loses only what follows. --rehearse is the same program with small numbers on a
# CPU. The exit status is the number of parts that failed.
set -uo pipefail
out=${1:?usage: benchmarks/gpu_program.sh OUT [--rehearse]}
rehearse=${2:-}
python=${PYTHON:-python3}
mkdir -p "$out"
out=$(cd "$out" && pwd)
images=${IMAGES:+$(realpath "$IMAGES")}
wheels=${WHEELS:+$(realpath "$WHEELS")}
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONPATH="$work/site:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
results=$work/results
mkdir -p "$results"
failed=0

part() { # NAME SECONDS COMMAND...
  local name=$1 seconds=$2 began=$SECONDS
  shift 2
  timeout --kill-after=10 "$seconds" "$@" > "$out/$name.log" 2>&1
  local status=$?
  [ $status -eq 0 ] || failed=$((failed + 1))
  echo "$name: status $status after $((SECONDS - began)) s" | tee -a "$results/parts.txt"
  cp "$out/$name.log" "$results/"
  tar -czf "$out/results.tmp" -C "$work" --exclude=images --exclude=prepared --exclude='*.safetensors' results
  mv "$out/results.tmp" "$out/results.tar.gz"
}

setup() {
  if [ -n "$wheels" ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$work/site" "$wheels"/*.whl || return 1
  fi
  if [ -n "$images" ]; then
    mkdir -p "$work/images" && tar -xzf "$images" -C "$work/images" || return 1
  fi
  nvidia-smi 2> /dev/null
  "$python" - << 'END'
import importlib.metadata, platform
print("python", platform.python_version())
for name in ("torch", "torchvision", "timm", "numpy", "pydantic", "ruamel.yaml", "safetensors"):
    print(name, importlib.metadata.version(name))
END
}
export -f setup
export python work images wheels

part setup 40 bash -c setup
# An archive may hold the two folders in a folder of its own.
folder=$(dirname "$(find "$work/images" -maxdepth 2 -name train -type d 2> /dev/null | head -n 1)")
part check 100 "$python" -m benchmarks.check --out "$results/check.json" $rehearse
part bench 170 "$python" -m benchmarks.gpu_bench --out "$results/bench.json" --limit 120 $rehearse
if [ -n "$rehearse" ]; then
  part study 120 "$python" -m benchmarks.gpu_study --out "$results/study" $rehearse
elif [ -n "$images" ]; then
  part study 225 "$python" -m benchmarks.gpu_study --images "$folder" --out "$results/study" \
    --bench "$results/bench.json" --seconds 205
fi
for log in check bench study; do
  [ -f "$out/$log.log" ] && tail -n 12 "$out/$log.log"
done
exit $failed
