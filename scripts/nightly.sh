#!/usr/bin/env bash
# The long forms of the tests that draw at random, each with a seed of its own that it prints. About two hours on 2 cores. Goes on after a
# failure, tells at the end what failed, and then exits with 1.
#
#   VDA_SEED=n          the seed (drawn otherwise); the same one repeats a night. A test that fails prints how to repeat it alone.
#   VDA_NIGHT_SCALE=10  how many per cent of it (100)
set -euo pipefail
. "$(dirname "$0")/setup.sh"
cd "$root"
install_packages

seed=${VDA_SEED:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}
scale=${VDA_NIGHT_SCALE:-100}
of() { echo $((($1 * scale + 99) / 100)); }
export VDA_SEED=$seed PROPTEST_RNG_SEED=$seed VDA_FUZZ_SEED=$seed VDA_KILL_SEED=$seed VDA_CHAOS_SEED=$seed
say "repeat with: VDA_SEED=$seed VDA_NIGHT_SCALE=$scale scripts/nightly.sh"

failed=()
long() { # long NAME VARIABLE=VALUE... ARGUMENTS OF nextest...
  local name=$1 from=$SECONDS; shift
  title "$name"
  if env "$@"; then say "$name: ok ($((SECONDS - from)) s)"; else failed+=("$name"); fi
}
nextest=(cargo nextest run --locked --profile nightly)

cargo build --workspace --bins --locked
long "properties" "PROPTEST_CASES=$(of 3000)" "${nextest[@]}" --workspace -E 'not package(vda-integration)'
long "lvstore, power cuts and kills" "VDA_CRASH_CYCLES=$(of 1000)" "${nextest[@]}" -p vda-dataplane what_was_flushed what_was_acknowledged_survives_kill_9
long "lvstore, kill -9 of a process" "VDA_KILL_CYCLES=$(of 100)" "${nextest[@]}" -p vda-dataplane --test kill
long "mirrors" "VDA_RAID_CYCLES=$(of 3000)" "${nextest[@]}" -p vda-dataplane raid::oracle
long "fuzzing" "VDA_FUZZ_SECONDS=$(of 600)" "${nextest[@]}" -p vda-fuzz
long "chaos" "VDA_CHAOS_CYCLES=$(of 200)" "${nextest[@]}" -p vda-integration -E 'test(chaos)'

title "Summary of VDA_SEED=$seed VDA_NIGHT_SCALE=$scale"
[ ${#failed[@]} -eq 0 ] || { printf 'FAILED: %s\n' "${failed[@]}"; exit 1; }
say "all passed"
