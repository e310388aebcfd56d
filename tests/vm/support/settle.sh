# SPDX-License-Identifier: MIT OR Apache-2.0
# settle: waits until udev has done its work. Each call wakes udevd 257, which may sleep on after it
# was to try a disk again that was locked: its timer runs by one clock, and the event is due by
# another. A call may also fail to reach a busy udevd ("Broken pipe"). One that stands still for
# another reason goes to the kernel's log, with where each of its processes is, and another one takes
# over.
is_done() {
    for _ in 1 2 3 4 5 6; do
        udevadm settle --timeout="$((PATIENCE / 6))" && return
    done
    return 1
}
is_done && return
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
/usr/lib/systemd/systemd-udevd --daemon
is_done
