// SPDX-License-Identifier: MIT OR Apache-2.0
//! A word that is set between the data and the end of the request.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use anyhow::{ensure, Context, Result};
use ubd_bpf::uapi::{ubd, ublk};

use super::broken::BadDisk;
use super::server::{Device, Setup};
use crate::support::backing::noise;
use crate::support::io::{open_direct, Aligned};
use crate::support::{sh, Files, NullDisk};

const SECTORS: u64 = 8 << 11;
const IOS: u64 = 200;

/// A device that forwards everything, and with each write adds one to `word`, which must live as
/// long as the device.
fn counting(path: &Path, word: &'static AtomicU64) -> Result<Device> {
    let mut installs = Vec::new();
    Device::start(&Setup::new(&[(path, true)], SECTORS), move |event| {
        ensure!(event.result == 0, "refused: {}", event.result);
        if event.op() != ublk::IO_OP_WRITE {
            return event.forward();
        }
        let seen = word.load(Ordering::Relaxed);
        let install = Box::new(ubd::Install {
            addr: &raw const *word as u64,
            expect: seen,
            value: seen + 1,
        });
        event.install(&install)?;
        installs.push(install);
        Ok(())
    })
}

/// A word for as long as the tests run.
fn leaked() -> &'static AtomicU64 {
    Box::leak(Box::new(AtomicU64::new(0)))
}

fn write(file: &std::fs::File, number: u64) -> std::io::Result<()> {
    let data = Aligned::copy_of(noise(number as usize, 4096), 0);
    file.write_all_at(&data, number * 4096)
}

/// By the time a write has ended its word is there, also when the disk ends it in an interrupt;
/// and one that has changed meanwhile is left alone.
pub fn memory() -> Result<()> {
    for settings in [&[][..], &[("irqmode", "2"), ("completion_nsec", "20000")]] {
        let disk = NullDisk::new(64, 512, settings)?;
        let word = leaked();
        let device = counting(Path::new(&disk.node()), word)?;
        let file = open_direct(device.ubd.node(), true)?;
        for number in 0..IOS {
            write(&file, number)?;
            let is = word.load(Ordering::Relaxed);
            ensure!(is == number + 1, "write {number} ended with the word {is}");
        }
        drop(file);
        device.end()?;
    }
    let disk = NullDisk::new(64, 512, &[])?;
    let word = leaked();
    let node = disk.node();
    let slots = [(Path::new(&*node), true)];
    let install = Arc::new(ubd::Install {
        addr: &raw const *word as u64,
        expect: 5,
        value: 6,
    });
    let device = Device::start(&Setup::new(&slots, SECTORS), move |event| {
        event.install(&install)
    })?;
    let file = open_direct(device.ubd.node(), true)?;
    for (is, becomes) in [(4, 4), (5, 6), (6, 6)] {
        word.store(is, Ordering::Relaxed);
        write(&file, 1)?;
        let now = word.load(Ordering::Relaxed);
        ensure!(now == becomes, "{is} became {now}");
    }
    drop(file);
    device.end()
}

/// Memory that others see: of a map's, whose pages are the kernel's, and of a file, which gets to
/// the disk.
pub fn shared() -> Result<()> {
    let disk = NullDisk::new(64, 512, &[])?;
    let files = Files::ext4()?;
    let path = files.file("table", 4096)?;
    let table = OpenOptions::new().read(true).write(true).open(&path)?;
    // SAFETY: a new shared mapping of a page of the file, which is that long.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            table.as_raw_fd(),
            0,
        )
    };
    ensure!(page != libc::MAP_FAILED, "failed to map the file");
    // SAFETY: mapped above until the end of the test, and nothing but words.
    let word: &'static AtomicU64 = unsafe { &*page.cast::<AtomicU64>() };
    let device = counting(Path::new(&disk.node()), word)?;
    let file = open_direct(device.ubd.node(), true)?;
    for number in 0..20 {
        write(&file, number)?;
        // Written back, and clean: the next word makes it dirty again.
        table.sync_all()?;
    }
    drop(file);
    device.end()?;
    sh("echo 3 > /proc/sys/vm/drop_caches")?;
    // SAFETY: mapped above; the server, which knew it, has ended.
    unsafe { libc::munmap(page, 4096) };
    drop(table);
    sh(format!(
        "umount {0}; mount {1} {0}",
        files.dir().display(),
        files.disk().node()
    ))?;
    let mut is = [0; 8];
    OpenOptions::new()
        .read(true)
        .open(&path)?
        .read_exact_at(&mut is, 0)?;
    let is = u64::from_ne_bytes(is);
    ensure!(is == 20, "the file has the word {is}");
    drop(path);

    let map = ubd_bpf_map()?;
    let device = counting(Path::new(&disk.node()), map)?;
    let file = open_direct(device.ubd.node(), true)?;
    for number in 0..20 {
        write(&file, number)?;
        let is = map.load(Ordering::Relaxed);
        ensure!(is == number + 1, "write {number} ended with the word {is}");
    }
    drop(file);
    device.end()
}

/// The first word of a new array map that is mapped into memory, for ever.
fn ubd_bpf_map() -> Result<&'static AtomicU64> {
    /// `BPF_MAP_CREATE`'s part of `union bpf_attr`, with zeroes behind it.
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_flags: u32,
        rest: [u32; 13],
    }
    const BPF_MAP_CREATE: libc::c_int = 0;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    const BPF_F_MMAPABLE: u32 = 1 << 10;
    let attr = Attr {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: 8,
        max_entries: 512,
        map_flags: BPF_F_MMAPABLE,
        ..Attr::default()
    };
    // SAFETY: the command reads the structure of that size.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, &attr, size_of::<Attr>()) };
    let fd = libc::c_int::try_from(fd).context("no map")?;
    ensure!(fd >= 0, "failed to make a map");
    // SAFETY: a new shared mapping of the map's page.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd,
            0,
        )
    };
    // SAFETY: the mapping keeps the map.
    unsafe { libc::close(fd) };
    ensure!(page != libc::MAP_FAILED, "failed to map the map");
    // SAFETY: mapped for ever, and nothing but words.
    Ok(unsafe { &*page.cast::<AtomicU64>() })
}

/// A write that fails installs nothing, wherever in it the error is.
pub fn errors() -> Result<()> {
    let bad = BadDisk::new()?;
    let word = leaked();
    let device = counting(Path::new(&bad.node()), word)?;
    let file = open_direct(device.ubd.node(), true)?;
    const BAD: u64 = (1 << 20) / 4096;
    ensure!(write(&file, BAD).is_err(), "a write to a bad disk");
    let data = Aligned::copy_of(noise(1, 8192), 0);
    ensure!(
        file.write_all_at(&data, (BAD - 1) * 4096).is_err(),
        "a write that is bad in its second half"
    );
    ensure!(word.load(Ordering::Relaxed) == 0, "a word without its data");
    write(&file, 0)?;
    ensure!(word.load(Ordering::Relaxed) == 1, "no word with its data");
    drop(file);
    device.end()
}
