#!/usr/bin/env bash
# Measures, prints a table and writes target/bench/NAME.json.
#   bench.sh control-plane [--plot] [--quick]   and with --plot target/bench/control-plane.svg
#   bench.sh data-plane [--quick] [...]         beside SPDK, with VDA_SPDK_TGT=/path/to/spdk_tgt; --help shows the rest
#   VDA_BENCH_PROFILE=dist                      as packages are built; release without it
set -euo pipefail
. "$(dirname "$0")/setup.sh"
cd "$root"

case ${1:-} in
  control-plane | data-plane) name=$1; shift ;;
  *) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
profile=${VDA_BENCH_PROFILE:-release}
args=(--json "$root/target/bench/$name.json")
for arg in "$@"; do
  case $name$arg in
    control-plane--plot) args+=(--plot "$root/target/bench/control-plane.svg") ;;
    *) args+=("$arg") ;;
  esac
done
install_packages
mkdir -p "$root/target/bench"
if [ "$name" = data-plane ]; then
  cargo build --profile "$profile" --locked -p vda-dataplane -p vda-integration --bins
else
  cargo build --profile "$profile" --locked --workspace --bins
fi
exec "$(target_dir)/$profile/${name/-/_}_bench" "${args[@]}"
