# SPDX-License-Identifier: MIT OR Apache-2.0
# Makes a usable machine of what virtme-ng's init left. Sourced by run.sh and shell.sh; root is
# a read-only 9p mount, so everything that is written to lands on tmpfs.

mountpoint -q /tmp || mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -p /run/overlay
for dir in etc var root mnt usr/lib/modules; do
	upper=/run/overlay/$dir
	mkdir -p "$upper/up" "$upper/work"
	mount -t overlay -o "lowerdir=/$dir,upperdir=$upper/up,workdir=$upper/work" overlay "/$dir"
done

# A self-built kernel brings its modules in a directory of its own.
if ! [ -e "/lib/modules/$(uname -r)" ]; then
	mkdir "/lib/modules/$(uname -r)"
	mount --bind /ubd/modules "/lib/modules/$(uname -r)"
fi

mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf
modprobe -q configfs
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config

# From here on the whole kernel log goes to the host.
dmesg --console-level 8

set -a
. /ubd/run/env
set +a
cd /tmp || exit
