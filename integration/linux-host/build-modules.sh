#!/usr/bin/env bash
# build-modules.sh DIR: the NVMe/TCP initiator for Debian's user-mode-linux kernel, as modules in DIR.
#
# That kernel comes without NVMe. The modules are built from the very source it was built from: Debian's linux-source package in the
# version that user-mode-linux names in its Built-Using field. The package is downloaded and partly unpacked, not installed.
# Where an archive does not have that version any more, the nearest one of the same stable series is taken, and said.
# Does nothing if DIR holds what this script would build. Takes about half a minute.
set -euo pipefail
out=$(realpath -m "$1")
self=$(realpath "$0")

release=$(cd /usr/lib/uml/modules && printf '%s\n' * | sort -V | tail -n 1)     # 6.1.176
version=$(dpkg-query -W -f '${Built-Using}' user-mode-linux | sed -n 's/.*linux (= \([^)]*\)).*/\1/p')
source=linux-source-${release%.*}
[ -n "$version" ] || { echo "user-mode-linux does not say which version of $source it was built from" >&2; exit 1; }

mkdir -p "$out"
# Tests of two checkouts may share the directory.
exec {lock}>"$out/.lock"
flock "$lock"
want="$version $(sha256sum <"$self" | cut -d' ' -f1)"
[ "$(cat "$out/built" 2>/dev/null)" != "$want" ] || exit 0
rm -f "$out/built" "$out"/*.ko

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"   # apt downloads as another user
cd "$work"
installed=/usr/src/$source.tar.xz
if [ -f "$installed" ] && [ "$(dpkg-query -W -f '${Version}' "$source" 2>/dev/null)" = "$version" ]; then
  ln -s "$installed" source.tar.xz
else
  apt-get download -q "$source=$version" || {
    # The lists may be missing, or older than the archive.
    apt-get update -qq
    apt-get download -q "$source=$version" || {
      offered=$(apt-cache madison "$source" | cut -d'|' -f2 | tr -d ' ' | sort -Vu)
      nearest=$(printf '%s\n%s\n' "$offered" "$version" | sort -V | grep -A1 -Fx "$version" | tail -n 1)
      [ "$nearest" != "$version" ] || nearest=$(tail -n 1 <<<"$offered")
      [ -n "$nearest" ] || { echo "no version of $source can be downloaded" >&2; exit 1; }
      echo "$source $version is not to be had: building from $nearest" >&2
      apt-get download -q "$source=$nearest"
    }
  }
  dpkg-deb --fsys-tarfile "$source"_*.deb | tar x --to-stdout "./usr/src/$source.tar.xz" >source.tar.xz
fi
# No more than what building a module of arch/um reads.
xz --decompress --stdout --threads=0 source.tar.xz | tar x --strip-components=1 --wildcards \
  "$source/Makefile" "$source/Kbuild" '*/Kconfig*' '*/Makefile*' '*/Kbuild*' "$source/include/*" "$source/scripts/*" \
  "$source/arch/um/*" "$source/arch/x86/*" "$source/drivers/nvme/*" "$source/kernel/bounds.c" "$source/kernel/time/timeconst.bc" \
  "$source/tools/include/*" "$source/security/selinux/include/*" "$source/security/apparmor/*.h"

# Of another version of the series, the modules say that they are of the kernel's: within a stable series that is nearly always true, and if
# not, the guest's boot fails.
sed -i "s/^SUBLEVEL = .*/SUBLEVEL = ${release##*.}/" Makefile

linux.uml --showconfig 2>/dev/null | sed -n '/^#/,$p' >.config
scripts/config -m NVME_TCP -e NVME_MULTIPATH -e NVME_VERBOSE_ERRORS
make -s ARCH=um olddefconfig
make -s ARCH=um -j"$(nproc)" modules_prepare
made=$(cat include/config/kernel.release)
[ "$made" = "$release" ] || { echo "the source is of $made, the kernel is $release" >&2; exit 1; }
# The symbols of the kernel itself are not known here: the kernel checks them when it loads the modules.
make -s ARCH=um -j"$(nproc)" M=drivers/nvme/host KBUILD_MODPOST_WARN=1 modules 2>&1 | grep -v 'undefined!' || true
for module in nvme-core nvme-fabrics nvme-tcp; do
  cp "drivers/nvme/host/$module.ko" "$out/"
  strip --strip-debug "$out/$module.ko"
done
printf '%s\n' "$want" >"$out/built"
