#!/bin/sh
# Run in a new network namespace: gives it loopback and two taps, the two paths between a guest and the targets, says `ready`, and
# waits until stdin ends. The namespace has no name: it is gone, with its taps, when the last process in it has ended.
set -e
ip link set lo up
for path in 0 1; do
  ip tuntap add dev tap$path mode tap
  ip addr add 10.231.$path.1/24 dev tap$path
  ip link set tap$path up
done
echo ready
cat >/dev/null
