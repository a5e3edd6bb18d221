#!/usr/bin/env bash
# A long fuzz run, guided by coverage, on the stable compiler. New inputs that reach new code go into a folder of their own; what is
# worth keeping is merged into the corpus with "merge". Needs a C++ compiler, for libFuzzer.
#
#   scripts/fuzz.sh TARGET [SECONDS]     one of pdu_stream, controller, host, nvmf_target, json_rpc, lvstore; 600 s
#   scripts/fuzz.sh TARGET merge         takes over into fuzz/corpus/TARGET what adds coverage
set -euo pipefail
. "$(dirname "$0")/setup.sh"
cd "$root"

name=${1:?name a target}
what=${2:-600}
corpus=$root/fuzz/corpus/$name
[ -d "$corpus" ] || die "there is no target $name"
export CARGO_TARGET_DIR; CARGO_TARGET_DIR=$(target_dir)/libfuzzer
found=$CARGO_TARGET_DIR/found/$name
mkdir -p "$found"

# Coverage as libFuzzer wants it; everything is instrumented, our dependencies too.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --manifest-path fuzz/libfuzzer/Cargo.toml --release --target "$host"
program=$CARGO_TARGET_DIR/$host/release/vda_fuzz
export VDA_FUZZ_TARGET=$name
if [ "$what" = merge ]; then exec "$program" -merge=1 "$corpus" "$found"; fi
exec "$program" -max_total_time="$what" -max_len=65536 -timeout=10 -rss_limit_mb=1024 \
  -artifact_prefix="$found/" "$found" "$corpus"
