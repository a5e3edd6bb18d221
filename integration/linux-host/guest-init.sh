#!/bin/bash
# First process of the guest. Its root is the outer machine's, read-only; whatever it writes is in memory, or in /mnt/share.
# After `READY` every line from the console is a command; its output is followed by `<<<RC n>>>`.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
for dir in /dev/shm /run /mnt /var/tmp /tmp; do mount -t tmpfs tmpfs $dir; done
read -r cmdline </proc/cmdline
for word in $cmdline; do
  case $word in vda_share=*) share=${word#*=} ;; vda_modules=*) modules=${word#*=} ;; esac
done
mkdir -p /mnt/share /mnt/nvme /mnt/ext4 /mnt/xfs
mount -t hostfs none /mnt/share -o "$share"

# Not the outer machine's identity.
host=11111111-2222-3333-4444-555555555555
echo "nqn.2014-08.org.nvmexpress:uuid:$host" >/mnt/nvme/hostnqn
echo $host >/mnt/nvme/hostid
[ ! -d /etc/nvme ] || mount --bind /mnt/nvme /etc/nvme

# modprobe wants one tree of modules.
mkdir -p /mnt/kernel/lib/modules
ln -s "/usr/lib/uml/modules/$(uname -r)" /mnt/kernel/lib/modules/
for module in configfs t10-pi libcrc32c crc32c_generic ipv6 ext4 xfs; do modprobe -q -d /mnt/kernel $module; done
for module in nvme-core nvme-fabrics nvme-tcp; do insmod "$modules/$module.ko" || echo "insmod $module: $?"; done

ip link set lo up
for path in 0 1; do
  ip addr add 10.231.$path.2/24 dev vec$path
  ip link set vec$path up
done
stty -echo -onlcr </dev/console 2>/dev/null
cd /mnt
dmesg --clear   # what the kernel said until here is no news
echo READY
while IFS= read -r line; do
  eval "$line" </dev/null 2>&1
  echo "<<<RC $?>>>"
done
halt -f -p
