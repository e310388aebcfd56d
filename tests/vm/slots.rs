// SPDX-License-Identifier: MIT OR Apache-2.0
//! What may become a slot, what a slot holds, and when it lets go.

mod cycles;

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use ubd_bpf::control::Control;
use ubd_bpf::uapi::{ubd, Plain};

use crate::support::backing::{noise, same};
use crate::support::io::{open_direct, Aligned};
use crate::support::raw::RawControl;
use crate::support::{sh, wait_for, Files, NullDisk, RamDisk, Test, Ubd};

pub const TESTS: &[Test] = &[
    Test {
        name: "slots/what_may_be_one",
        run: candidates,
    },
    Test {
        name: "slots/windows",
        run: windows,
    },
    Test {
        name: "slots/numbers",
        run: numbers,
    },
    Test {
        name: "slots/limits_of_a_live_device",
        run: live_limits,
    },
    Test {
        name: "slots/draining_until_the_last_close",
        run: draining,
    },
    Test {
        name: "slots/claims",
        run: claims,
    },
    Test {
        name: "slots/cycles_the_kernel_refuses",
        run: cycles::kernel,
    },
    Test {
        name: "slots/cycles_the_tools_refuse",
        run: cycles::tools,
    },
    Test {
        name: "slots/no_cycle_where_there_is_none",
        run: cycles::none,
    },
];

/// REG_SLOT, raw.
struct Slots {
    raw: RawControl,
    id: u32,
}

impl Slots {
    fn of(device: &Ubd) -> Result<Slots> {
        Ok(Slots {
            raw: RawControl::open()?,
            id: device.id(),
        })
    }

    /// Number and length of the new slot, or the errno.
    fn register(&self, reg: ubd::SlotReg) -> Result<(u32, u64), i32> {
        let mut reg = ubd::SlotReg {
            dev_id: self.id,
            ..reg
        };
        match self
            .raw
            .ioctl(ubd::CMD_REG_SLOT, std::ptr::from_mut(&mut reg) as u64)
        {
            0 => Ok((reg.slot, reg.nr_sectors)),
            err => Err(-err),
        }
    }

    fn refused(&self, what: &str, errno: i32, reg: ubd::SlotReg) -> Result<()> {
        let result = self.register(reg);
        ensure!(
            result == Err(errno),
            "{what}: {result:?} instead of errno {errno}"
        );
        Ok(())
    }

    fn unregister(&self, slot: u32) -> i32 {
        let mut unreg = ubd::SlotUnreg {
            dev_id: self.id,
            slot,
        };
        self.raw
            .ioctl(ubd::CMD_UNREG_SLOT, std::ptr::from_mut(&mut unreg) as u64)
    }
}

fn any(file: &File, flags: u32) -> ubd::SlotReg {
    ubd::SlotReg {
        fd: file.as_raw_fd(),
        flags,
        slot: ubd::SLOT_ANY,
        ..ubd::SlotReg::zeroed()
    }
}

fn open(path: impl AsRef<Path>, read: bool, write: bool) -> Result<File> {
    let path = path.as_ref();
    let file = OpenOptions::new().read(read).write(write).open(path);
    file.with_context(|| format!("failed to open `{}`", path.display()))
}

fn candidates() -> Result<()> {
    let disk = RamDisk::new()?;
    let files = Files::ext4()?;
    let path = files.file("backing", 1 << 20)?;
    let device = Ubd::add(&["-t null -s 16M"])?;
    let slots = Slots::of(&device)?;
    let (write, direct) = (ubd::SLOT_WRITE, ubd::SLOT_DIRECT);

    for path in [Path::new(&disk.node()), &path] {
        let (r, w, rw) = (
            open(path, true, false)?,
            open(path, false, true)?,
            open(path, true, true)?,
        );
        slots.refused("reading through a write-only fd", libc::EACCES, any(&w, 0))?;
        slots.refused(
            "writing through a read-only fd",
            libc::EACCES,
            any(&r, write),
        )?;
        for flag in [ubd::SLOT_FILE, ubd::SLOT_DRAINING, ubd::SLOT_DIRTY, 1 << 31] {
            slots.refused("an unknown flag", libc::EINVAL, any(&rw, flag))?;
        }
        for flags in [0, write, direct, write | direct] {
            let (nr, _) = slots
                .register(any(&rw, flags))
                .map_err(|errno| anyhow::anyhow!("flags {flags}: errno {errno}"))?;
            ensure!(slots.unregister(nr) == 0, "unregister");
        }
        // A path leads to no data.
        let just_path = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(path)?;
        slots.refused("an O_PATH fd", libc::EBADF, any(&just_path, 0))?;
    }
    for path in ["/dev/null", "/tmp"] {
        slots.refused(path, libc::EINVAL, any(&open(path, true, false)?, 0))?;
    }
    let empty = files.file("empty", 0)?;
    slots.refused(
        "an empty file",
        libc::EINVAL,
        any(&open(empty, true, false)?, 0),
    )?;
    for fd in [-1, 9999, i32::MIN] {
        let reg = ubd::SlotReg {
            fd,
            slot: ubd::SLOT_ANY,
            ..ubd::SlotReg::zeroed()
        };
        slots.refused("no file", libc::EBADF, reg)?;
    }
    // Turned read-only after it was opened.
    let rw = open(disk.node(), true, true)?;
    sh(format!("blockdev --setro {}", disk.node()))?;
    let result = slots.refused("a read-only disk", libc::EROFS, any(&rw, write));
    sh(format!("blockdev --setrw {}", disk.node()))?;
    result?;
    let nowhere = Slots {
        raw: RawControl::open()?,
        id: 1000,
    };
    nowhere.refused("no device", libc::ENODEV, any(&rw, write))
}

fn sectors(disk: &RamDisk) -> Result<u64> {
    Ok(sh(format!("blockdev --getsz {}", disk.node()))?.parse()?)
}

fn windows() -> Result<()> {
    let disk = RamDisk::new()?;
    let disk4k = NullDisk::new(16, 4096, &[])?;
    let device = Ubd::add(&["-t null -s 16M -b 4096"])?;
    let slots = Slots::of(&device)?;
    let (file, file4k) = (
        open(disk.node(), true, false)?,
        open(disk4k.node(), true, false)?,
    );
    let size = sectors(&disk)?;
    let window = |file: &File, offset, nr_sectors| ubd::SlotReg {
        offset,
        nr_sectors,
        ..any(file, 0)
    };

    for (offset, nr) in [
        (size, 0),
        (size, 1),
        (0, size + 1),
        (8, size - 7),
        (8, u64::MAX - 7),
        (u64::MAX, 1),
        (u64::MAX, 0),
    ] {
        slots.refused(
            &format!("window {offset}+{nr}"),
            libc::EINVAL,
            window(&file, offset, nr),
        )?;
    }
    for (offset, nr) in [(1, 8), (8, 1), (4, 4), (1, 0)] {
        slots.refused(
            &format!("4K blocks, window {offset}+{nr}"),
            libc::EINVAL,
            window(&file4k, offset, nr),
        )?;
    }
    let fits: [(&File, u64, u64, u64); 5] = [
        (&file, 0, 0, size),
        (&file, 3, 0, size - 3),
        (&file, size - 1, 0, 1),
        (&file, 5, 7, 7),
        (&file4k, 8, 16, 16),
    ];
    for (nr, (file, offset, length, told)) in fits.into_iter().enumerate() {
        let result = slots.register(window(file, offset, length));
        ensure!(
            result == Ok((nr as u32, told)),
            "window {offset}+{length}: {result:?}"
        );
    }
    let listed = Control::open()?.slots(device.id())?;
    let listed: Vec<_> = listed
        .iter()
        .map(|slot| (slot.slot, slot.offset, slot.nr_sectors))
        .collect();
    ensure!(
        listed
            == [
                (0, 0, size),
                (1, 3, size - 3),
                (2, size - 1, 1),
                (3, 5, 7),
                (4, 8, 16)
            ],
        "{listed:?}"
    );
    device.del()
}

fn numbers() -> Result<()> {
    let disk = RamDisk::new()?;
    let device = Ubd::add(&["-t null -s 16M"])?;
    let slots = Slots::of(&device)?;
    let file = open(disk.node(), true, false)?;
    let all = sectors(&disk)?;
    let numbered = |slot| ubd::SlotReg {
        slot,
        ..any(&file, 0)
    };
    for slot in [64, 65, i32::MAX as u32, u32::MAX - 1] {
        slots.refused(&format!("number {slot}"), libc::EINVAL, numbered(slot))?;
        ensure!(
            slots.unregister(slot) == -libc::EINVAL,
            "slot {slot} can be unregistered"
        );
    }
    ensure!(slots.register(numbered(63)) == Ok((63, all)), "number 63");
    ensure!(slots.register(numbered(1)) == Ok((1, all)), "number 1");
    slots.refused("a number twice", libc::EBUSY, numbered(63))?;
    for slot in (0..63).filter(|slot| *slot != 1) {
        ensure!(
            slots.register(any(&file, 0)) == Ok((slot, all)),
            "the next free number, {slot}"
        );
    }
    slots.refused("the 65th", libc::ENOSPC, any(&file, 0))?;
    ensure!(device.attr("ubd/nr_slots")? == "64", "nr_slots");
    // Nobody has the device open: a slot goes at once, and its number is free.
    ensure!(slots.unregister(17) == 0, "unregister");
    ensure!(
        slots.unregister(17) == -libc::ENOENT,
        "a slot can be unregistered twice"
    );
    ensure!(
        slots.register(any(&file, 0)) == Ok((17, all)),
        "the number is not free again"
    );
    device.del()
}

/// A slot that comes late must fit the limits that users have seen.
fn live_limits() -> Result<()> {
    let disk4k = NullDisk::new(16, 4096, &[])?;
    let device = Ubd::add(&["-t null -s 16M"])?;
    let file = open(disk4k.node(), true, false)?;
    Slots::of(&device)?.refused("4K blocks under 512", libc::EOPNOTSUPP, any(&file, 0))?;
    device.del()
}

/// Is this disk claimed by somebody?
fn claimed(node: &str) -> bool {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_EXCL)
        .open(node)
        .is_err()
}

fn draining() -> Result<()> {
    let disk = RamDisk::new()?;
    let device = Ubd::add(&["-t loop -f", &disk.node(), "--sizelimit 8M --bpf-fastpath"])?;
    let open = open_direct(device.node(), true)?;
    let control = Control::open()?;
    open.write_all_at(&Aligned::copy_of(noise(1, 8192), 0), 0)?;
    ensure!(
        claimed(&disk.node()),
        "a slot for writing does not claim its disk"
    );

    control.unregister_slot(device.id(), 0)?;
    let before = device.counters()?;
    let slots = control.slots(device.id())?;
    ensure!(
        slots.len() == 1 && slots[0].flags & ubd::SLOT_DRAINING != 0,
        "not draining: {slots:?}"
    );
    let text = sh(format!("ubd-bpf slot list {}", device.id()))?;
    ensure!(
        text.contains("draining"),
        "`ubd-bpf slot list` says\n{text}"
    );
    // Verdicts that name it decline, and are no one's fault.
    let mut data = Aligned::new(8192);
    open.read_exact_at(&mut data, 0)?;
    same(&data, noise(1, 8192))?;
    let counted = device.counters()?.since(&before);
    counted.all_declined(1)?;
    ensure!(
        counted["bad"] == 0,
        "naming a slot that drains is bad: {}",
        counted.summary()
    );
    ensure!(
        claimed(&disk.node()),
        "the disk was let go while bios might be on their way to it"
    );
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(disk.node())?;
    let busy = Slots::of(&device)?.register(ubd::SlotReg {
        slot: 0,
        ..any(&file, 0)
    });
    ensure!(
        busy == Err(libc::EBUSY),
        "the number of a draining slot: {busy:?}"
    );

    drop(open);
    wait_for("the slot to let go", Duration::from_secs(10), || {
        control
            .slots(device.id())
            .is_ok_and(|slots| slots.is_empty())
            && !claimed(&disk.node())
    })?;
    // And it comes back.
    sh(format!(
        "ubd-bpf slot add {} {} --size 8M",
        device.id(),
        disk.node()
    ))?;
    let open = open_direct(device.node(), true)?;
    let before = device.counters()?;
    open.read_exact_at(&mut data, 0)?;
    device.counters()?.since(&before).all_mapped(1)?;
    same(&data, noise(1, 8192))
}

fn claims() -> Result<()> {
    let files = Files::ext4()?;
    let disk = RamDisk::new()?;
    let device = Ubd::add(&["-t null -s 16M"])?;
    let slots = Slots::of(&device)?;
    let mounted = open(files.disk().node(), true, true)?;
    slots.refused(
        "writing to a mounted disk",
        libc::EBUSY,
        any(&mounted, ubd::SLOT_WRITE),
    )?;
    ensure!(
        slots.register(any(&mounted, 0)).is_ok(),
        "reading a mounted disk is refused"
    );

    // Windows of one disk may share it, a mount may not.
    let shared = open(disk.node(), true, true)?;
    for nr in 1..3 {
        let window = ubd::SlotReg {
            offset: nr * 2048,
            nr_sectors: 2048,
            ..any(&shared, ubd::SLOT_WRITE)
        };
        ensure!(
            slots.register(window) == Ok((nr as u32, 2048)),
            "window {nr} of a disk"
        );
    }
    drop(shared);
    ensure!(
        sh(format!("mkfs.ext4 -q {}", disk.node())).is_err(),
        "mkfs over a slot"
    );
    ensure!(
        slots.unregister(1) == 0 && claimed(&disk.node()),
        "the second window does not claim the disk"
    );
    ensure!(
        slots.unregister(2) == 0 && !claimed(&disk.node()),
        "the last window has not let go"
    );
    device.del()
}
