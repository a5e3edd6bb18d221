#!/usr/bin/env bash
# Measures. `bench.sh control-plane [--plot] [--quick]`: prints a table, writes target/bench/control-plane.json, and with --plot
# target/bench/control-plane.svg.
set -euo pipefail
. "$(dirname "$0")/setup.sh"
cd "$root"

case ${1:-} in
  control-plane) shift ;;
  *) sed -n '2,3s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
args=(--json "$root/target/bench/control-plane.json")
for arg in "$@"; do
  case $arg in
    --plot) args+=(--plot "$root/target/bench/control-plane.svg") ;;
    *) args+=("$arg") ;;
  esac
done
install_packages
mkdir -p "$root/target/bench"
cargo build --release --locked --workspace --bins
exec "$(target_dir)/release/control_plane_bench" "${args[@]}"
