# Sourced by the other scripts: what they all need.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi

say() { printf '%s\n' "$*"; }
title() { printf '\n%s==> %s%s\n' "$bold" "$*" "$plain"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else die "missing packages need root: run as root or install sudo, or run: $*"
  fi
}

# Wireshark's reading of what is on the wire is a test of its own. It reads files: nobody gets the right to capture. Where it cannot be
# installed that test says so and is skipped.
install_tshark() {
  command -v tshark >/dev/null && return
  command -v apt-get >/dev/null || { say "tshark is missing: captures are NOT CHECKED"; return; }
  printf 'wireshark-common wireshark-common/install-setuid boolean false\n' | as_root debconf-set-selections || true
  as_root apt-get update -qq || true
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends tshark ||
    say "tshark cannot be installed: captures are NOT CHECKED"
}

# apt_install PACKAGE...: does nothing without arguments.
apt_install() {
  [ $# -gt 0 ] || return 0
  command -v apt-get >/dev/null || { say "not a Debian system: install these yourself: $*" >&2; return 1; }
  say "installing $*"
  as_root apt-get update -qq &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

# etcd itself, and protoc with Google's .proto files for building the etcd client.
install_packages() {
  local missing=()
  command -v etcd >/dev/null || [ -x /usr/sbin/etcd ] || missing+=(etcd-server)
  command -v protoc >/dev/null || missing+=(protobuf-compiler)
  [ -f /usr/include/google/protobuf/descriptor.proto ] || missing+=(libprotobuf-dev)
  command -v cc >/dev/null || missing+=(gcc libc6-dev)
  apt_install "${missing[@]}" || die "packages are missing"
  if ! command -v cargo >/dev/null; then
    # shellcheck disable=SC1091
    [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
    command -v cargo >/dev/null || die "no Rust toolchain: see https://rustup.rs"
  fi
}

# A Linux guest with the kernel's NVMe/TCP initiator, and what builds that (integration/linux-host/build-modules.sh).
install_linux_host_packages() {
  local missing=() package
  for package in user-mode-linux nvme-cli fio e2fsprogs xfsprogs kmod iproute2 gcc libc6-dev make bc bison flex xz-utils; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
  done
  apt_install "${missing[@]}"
}

target_dir() { printf '%s' "${CARGO_TARGET_DIR:-$root/target}"; }
