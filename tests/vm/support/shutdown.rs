// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of the machine, with devices in every state that a user may leave them in.

use anyhow::Result;

use super::sh;

/// By this name it can be asked for.
pub const NAME: &str = "shutdown/devices_open";

/// Leaves behind a mounted device with unwritten data, one of a frozen daemon, and one whose daemon
/// is dead and whose reader waits for the next. Whoever started the machine sees whether it ends.
pub fn leave_devices_open() -> Result<()> {
    sh("
        insmod $UBD_KO
        modprobe brd rd_nr=3 rd_size=65536
        settle
        ubd add -n 50 -t loop -f /dev/ram0 --bpf-fastpath
        ubd add -n 51 -t loop -f /dev/ram1
        ubd add -n 52 -t loop -f /dev/ram2 --recovery
        settle
        mkfs.ext4 -q /dev/ubdb50
        mkdir -p /mnt/last
        mount /dev/ubdb50 /mnt/last
        dd if=/dev/urandom of=/mnt/last/dirty bs=1M count=8 status=none
        kill -STOP $(cat /sys/block/ubdb51/ubd/daemon_pid)
        kill -KILL $(cat /sys/block/ubdb52/ubd/daemon_pid)
        for id in 51 52; do
            setsid dd if=/dev/ubdb$id of=/dev/null bs=4k count=1 iflag=direct \\
                </dev/null >/dev/null 2>&1 &
        done
        sleep 1")?;
    Ok(())
}
