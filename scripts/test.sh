#!/usr/bin/env bash
# All checks and tests of the project. Installs what is missing. From a fresh clone about 20 minutes on 2 cores.
#
#   VDA_SPDK_TGT=/path/to/spdk_tgt   run the integration tests on real SPDK
#   VDA_SPDK_PERF=/path/to/spdk_nvme_perf, VDA_BDEVPERF=/path/to/bdevperf   run SPDK's own hosts against the data plane
#   VDA_CHAOS_CYCLES=200             the long form of the chaos test
#   VDA_LINUX_HOST=required          fail, rather than skip, where no Linux guest can be booted; `off` does not try
#   VDA_DENY=1                       install cargo-deny if it is not there (takes minutes), and check licences, sources and bans
#
# What tests draw at random is the same in every run, so that a change is judged by what it changes; scripts/nightly.sh draws anew.
set -euo pipefail
. "$(dirname "$0")/setup.sh"
cd "$root"

export PROPTEST_RNG_SEED="${PROPTEST_RNG_SEED:-1}" VDA_FUZZ_SEED="${VDA_FUZZ_SEED:-1}" VDA_KILL_SEED="${VDA_KILL_SEED:-1}" VDA_CHAOS_SEED="${VDA_CHAOS_SEED:-1}"

summary=()
started=$SECONDS
on_exit() {
  local code=$?
  title "Summary"
  [ ${#summary[@]} -eq 0 ] || printf '%s\n' "${summary[@]}"
  if [ $code = 0 ]; then say "all checks passed in $((SECONDS - started)) s"
  else say "FAILED: ${step:-start} (after $((SECONDS - started)) s)"
  fi
  exit $code
}
trap on_exit EXIT

check() { # check NAME COMMAND...: its closing lines go into the summary as well
  step=$1; shift
  title "$step"
  local log from=$SECONDS
  log=$(mktemp)
  if ! "$@" 2>&1 | tee "$log"; then
    summary+=("$step: FAILED"); tail -n 40 "$log" | sed 's/^/    /'; rm -f "$log"; exit 1
  fi
  summary+=("$step: ok ($((SECONDS - from)) s)")
  while read -r line; do summary+=("    $line"); done < <(grep -E '^ *Summary \[|^test result:|=== SKIPPED' "$log" || true)
  rm -f "$log"
}

step="packages"
title "$step"
install_packages
install_tshark
if [ "${VDA_LINUX_HOST:-}" != off ] && ! install_linux_host_packages; then
  [ "${VDA_LINUX_HOST:-}" != required ] || die "VDA_LINUX_HOST=required: the packages for a Linux guest cannot be installed"
  summary+=("NOT TESTED with a real Linux host: its packages cannot be installed")
fi
rustup component add rustfmt clippy >/dev/null 2>&1 || true
if [ -n "${VDA_DENY:-}" ] && ! command -v cargo-deny >/dev/null; then cargo install --locked cargo-deny; fi

check "format" cargo fmt --all --check
check "lints" cargo clippy --workspace --all-targets --locked -- -D warnings
if command -v cargo-deny >/dev/null; then
  check "licences, sources and bans" cargo deny check licenses sources bans
else
  summary+=("licences, sources and bans: NOT CHECKED, cargo-deny is not installed (VDA_DENY=1 installs it)")
fi
check "programs" cargo build --workspace --bins --locked
if ! command -v cargo-nextest >/dev/null; then
  title "cargo-nextest"
  cargo install --locked cargo-nextest || say "cargo-nextest cannot be installed: using cargo test"
fi
if command -v cargo-nextest >/dev/null; then
  check "tests" cargo nextest run --workspace --locked --profile ci "$@"
else
  # Clusters one at a time.
  check "tests" cargo test --workspace --locked --all-targets -- --test-threads=1
fi
check "documentation tests" cargo test --workspace --locked --doc
check "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked
