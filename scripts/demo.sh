#!/usr/bin/env bash
# A whole cluster on this machine: creates a disk array of 2 stripes x 2 replicas, exports it, writes random data over all of it
# through NVMe/TCP, reads it back, shows every object, deletes everything, and shows that nothing is left.
#
#   --keep   leave the cluster running, with the array, and print how to play with it and how to stop it
#
#   VDA_SPDK_TGT=/path/to/spdk_tgt   use real SPDK instead of the embedded data plane
set -euo pipefail
. "$(dirname "$0")/setup.sh"

keep=
case ${1:-} in
  '') ;;
  --keep) keep=1 ;;
  *) sed -n '2,7s/^# \{0,1\}//p' "$0"; [ "$1" = --help ] && exit 0 || exit 2 ;;
esac

hostnqn=nqn.2014-08.org.nvmexpress:host:demo
bin="$(target_dir)/release"
dir= ; step=start ; pids=()
exec {reaper}> >(exec "$root/scripts/reaper.sh")

on_exit() {
  local code=$?
  trap '' INT TERM EXIT
  exec {reaper}>&-   # ends every process that was started, and not forgotten
  for pid in "${pids[@]}"; do
    # With --keep they go on.
    [ -n "$keep" ] && [ $code = 0 ] || wait "$pid" 2>/dev/null || true
  done
  if [ $code = 130 ] || [ $code = 143 ]; then
    printf '\ninterrupted; no process is left\n' >&2
    [ -z "$dir" ] || rm -rf "$dir"
  elif [ $code != 0 ]; then
    printf '\nFAILED in step: %s (exit code %s)\n' "$step" "$code" >&2
    if [ -n "$dir" ]; then
      local log
      log=$(grep -lE 'ERROR|"level":"ERROR"|panicked' "$dir"/*.log 2>/dev/null | head -n 1 || true)
      printf 'read first: %s\nall logs:   %s\n' "${log:-$dir/portal.log}" "$dir/*.log" >&2
    fi
  elif [ -z "$keep" ] && [ -n "$dir" ]; then
    rm -rf "$dir"
  fi
  exit $code
}
trap on_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

next() { step=$1; title "$1"; }

# A port nobody uses, below those the kernel gives to outgoing connections; the lock keeps other demos and tests away from it,
# and is held by all processes that are started.
port() { # port NAME
  local candidate fd
  local locks="${TMPDIR:-/tmp}/vda-ports"
  mkdir -p "$locks" 2>/dev/null || true
  # Somebody else's: as in `vda-ports`.
  [ -w "$locks" ] || { locks="$locks-$(id -u)"; mkdir -p "$locks"; }
  for _ in $(seq 1000); do
    candidate=$((15000 + RANDOM % 17000))
    { exec {fd}>"$locks/$candidate"; } 2>/dev/null || continue
    if flock -n "$fd" && ! (exec 3<>"/dev/tcp/127.0.0.1/$candidate") 2>/dev/null; then
      printf -v "$1" '%s' "$candidate"
      return
    fi
    exec {fd}>&-
  done
  die "no free port"
}

run() { # run NAME COMMAND...
  local name=$1; shift
  set -m   # a process group of its own: Ctrl-C does not reach it, the reaper does
  "$@" >>"$dir/$name.log" 2>&1 </dev/null {reaper}>&- &
  set +m
  pids+=($!)
  echo "add $!" >&"$reaper"
  printf '  %-12s pid %-7s log %s\n' "$name" "$!" "$dir/$name.log"
}

eventually() { # eventually WHAT COMMAND...
  local what=$1 end=$((SECONDS + 60)) out; shift
  until out=$("$@" 2>&1); do
    [ $SECONDS -lt $end ] || { printf '%s\n' "$out" >&2; die "$what: not in 60 s"; }
    sleep 0.05
  done
}

cli() { printf '%s$ vdacli %s%s\n' "$bold" "$*" "$plain"; "$bin/vdacli" "$@"; }

next "Packages"
install_packages

next "Build (release; the first time takes some minutes)"
(cd "$root" && cargo build --release --locked --workspace --bins)

next "Start etcd, a portal, a monitor, 2 disk nodes, 2 controller nodes"
dir=$(mktemp -d "${TMPDIR:-/tmp}/vda-demo.XXXXXX")
for name in etcd peer portal dn0 dn1 cn0 cn1 dn0_nvmf dn1_nvmf cn0_nvmf cn1_nvmf; do port "p_$name"; done
etcd=127.0.0.1:$p_etcd
export VDA_PORTAL=127.0.0.1:$p_portal
prefix=/vda-demo
run etcd "$(command -v etcd || echo /usr/sbin/etcd)" --name demo --data-dir "$dir/etcd" --logger zap --log-outputs stderr \
  --listen-client-urls "http://$etcd" --advertise-client-urls "http://$etcd" \
  --listen-peer-urls "http://127.0.0.1:$p_peer" --initial-advertise-peer-urls "http://127.0.0.1:$p_peer" \
  --initial-cluster "demo=http://127.0.0.1:$p_peer"
core=0
target() { # target NAME
  if [ -n "${VDA_SPDK_TGT:-}" ]; then
    local mask; mask=$(printf '0x%x' $((1 << (core % $(nproc))))); core=$((core + 1))
    run "$1-target" "$VDA_SPDK_TGT" --no-huge -s 2048 --no-pci --wait-for-rpc --iova-mode=va -r "$dir/$1.sock" -m "$mask" \
      --disable-cpumask-locks --env-context="--file-prefix=vda-$p_etcd-$1"
  else
    run "$1-target" "$bin/vda_dataplane" -r "$dir/$1.sock" --wait-for-rpc
  fi
}
for node in dn0 dn1 cn0 cn1; do
  address=p_$node nvmf=p_${node}_nvmf
  target $node
  run $node-agent "$bin/vda_${node%[0-9]}_agent" --address "127.0.0.1:${!address}" --sock-path "$dir/$node.sock" --sock-timeout 10 \
    --lis-conf "{\"trtype\":\"tcp\",\"traddr\":\"127.0.0.1\",\"adrfam\":\"ipv4\",\"trsvcid\":\"${!nvmf}\"}" \
    --tr-conf '{"trtype":"TCP"}' --state-dir "$dir/$node"
done
run portal "$bin/vda_portal" --portal-address "$VDA_PORTAL" --etcd-endpoints "$etcd" --prefix $prefix
run monitor "$bin/vda_monitor" --etcd-endpoints "$etcd" --prefix $prefix
eventually "the portal answers" "$bin/vdacli" cluster summary

next "Make nodes and disks known"
for n in 0 1; do
  address=p_dn$n nvmf=p_dn${n}_nvmf
  cli dn create "127.0.0.1:${!address}" --listen "127.0.0.1:${!nvmf}" --location "rack$n" --wait=60s
  for pd in 0 1; do
    truncate -s 256M "$dir/dn$n-pd$pd.img"
    cli pd create "127.0.0.1:${!address}" pd$pd --aio "$dir/dn$n-pd$pd.img" --wait=60s
  done
done
for n in 0 1; do
  address=p_cn$n nvmf=p_cn${n}_nvmf
  cli cn create "127.0.0.1:${!address}" --listen "127.0.0.1:${!nvmf}" --wait=60s
done

next "A disk array of 2 stripes x 2 replicas, and an exporter for one host"
cli da create da0 --size 64MiB --stripes 2 --replicas 2 --wait=60s
cli exp create da0 exp0a --host $hostnqn --wait=60s

next "Write random data over the whole array through NVMe/TCP, and read it back"
connect=$("$bin/vdacli" exp get da0 exp0a | sed -n 's/^ *nvme connect //p')
option() { sed -n "s/.*-$1 \([^ ]*\).*/\1/p" <<<"$connect" | head -n 1; }
host() { # host VERB ARGUMENTS...
  local verb=$1; shift
  printf '%s$ vda_host %s ...%s\n' "$bold" "$verb" "$plain"
  "$bin/vda_host" "$verb" --nqn "$(option n)" --hostnqn "$(option q)" --path "tcp://$(option a):$(option s)" "$@"
}
head -c 64M /dev/urandom >"$dir/written"
host identify
host write --from "$dir/written"
host read --length 64MiB --to "$dir/read"
wrote=$(sha256sum <"$dir/written" | cut -d' ' -f1) got=$(sha256sum <"$dir/read" | cut -d' ' -f1)
say "sha256 written $wrote"
say "sha256 read    $got"
[ "$wrote" = "$got" ] || die "what was read is not what was written"
rm -f "$dir/written" "$dir/read"

next "Every object"
for noun in dn pd cn da exp; do cli $noun list; done
cli da get da0
cli exp get da0 exp0a
cli cluster summary

if [ -n "$keep" ]; then
  next "The cluster keeps running"
  for pid in "${pids[@]}"; do echo "forget $pid" >&"$reaper"; done
  { echo '#!/bin/sh'
    for pid in "${pids[@]}"; do echo "kill -s KILL -- -$pid 2>/dev/null"; done
    echo "rm -rf '$dir'"
  } >"$dir/stop.sh"
  chmod +x "$dir/stop.sh"
  cat <<END
To use it:
  export VDA_PORTAL=$VDA_PORTAL PATH=$bin:\$PATH
  vdacli da list
  vdacli exp get da0 exp0a
  vda_host bench --nqn $(option n) --hostnqn $(option q) --path tcp://$(option a):$(option s)
  vdacli da create da1 --size 32MiB --replicas 2
Logs, disks and sockets: $dir
To stop it and remove everything:
  $dir/stop.sh
END
  exit 0
fi

next "Delete everything"
cli exp delete da0 exp0a --wait=60s
cli da delete da0 --wait=60s
say "while nodes and disks are still there, nothing of the array is left:"
left() { "$bin/vda_leftovers" --etcd-endpoints "$etcd" --prefix $prefix "$@"; }
targets=(); for node in dn0 dn1 cn0 cn1; do targets+=(--target "$dir/$node.sock"); done
left --nodes-stay "${targets[@]}"
for n in 0 1; do
  address=p_dn$n
  for pd in 0 1; do cli pd delete "127.0.0.1:${!address}" pd$pd --wait=60s; done
  cli dn delete "127.0.0.1:${!address}" --wait=60s
  address=p_cn$n
  cli cn delete "127.0.0.1:${!address}" --wait=60s
done

next "Nothing is left"
left "${targets[@]}"
title "Done: everything worked, and everything is gone"
