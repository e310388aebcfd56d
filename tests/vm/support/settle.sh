# SPDX-License-Identifier: MIT OR Apache-2.0
# settle: waits until udev has done its work. udevd 257 has been seen to stand still for good after a
# busy time: the kernel's log gets where each of its processes is, and another one takes over.
udevadm settle --timeout="$PATIENCE" && return
pids=$(pgrep -x 'systemd-udevd|.udev-worker.' || true)
{
    echo "udev stands still; $(ls -l /run/udev/queue)"
    for pid in $pids; do
        echo "$pid $(tr '\0' ' ' < "/proc/$pid/cmdline") $(grep State "/proc/$pid/status")"
        cat "/proc/$pid/stack"
    done
} 2>&1 | while read -r line; do echo "$line" > /dev/kmsg; done
# One that waits in the kernel may wait for a driver: that is a failure.
for pid in $pids; do
    ! grep -q '^State:.D' "/proc/$pid/status" || return 1
done
pkill -KILL -x 'systemd-udevd|.udev-worker.' || true
rm -f /run/udev/queue
/usr/lib/systemd/systemd-udevd --daemon --resolve-names=never
udevadm settle --timeout="$PATIENCE"
