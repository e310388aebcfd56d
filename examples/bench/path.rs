// SPDX-License-Identifier: MIT OR Apache-2.0
//! The paths to a backing: ubd's and its peers'. Each is set up as its users do it, and taken down
//! when dropped.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{bail, ensure, Context, Result};
use ubd_bpf::cluster::ClusterMap;
use ubd_bpf::fastpath::Source;
use ubd_bpf::sysfs::{self, Disk};

use crate::backing::Backing;
use crate::clusters;
use crate::fio::{self, Done};
use crate::plan::Job;
use crate::shell::sh;

/// A path that is ready.
pub struct Path {
    /// What fio opens.
    pub node: String,
    ubd: Option<Ubd>,
    /// Scripts that take it down, in this order.
    undo: Vec<String>,
    /// A program that goes with its map, after all that.
    _clusters: Option<ClusterMap>,
}

/// What must be true of a ubd device while it is measured.
struct Ubd {
    disk: Disk,
    /// Counters that go up by one an I/O: without them, a cell would not show what it says.
    counters: &'static [&'static str],
    /// Somebody who claims the device, as a mounted file system does.
    _claim: Option<File>,
}

impl Path {
    /// Sets up the path of that name.
    pub fn open(name: &str, backing: &Backing) -> Result<Path> {
        let mut path = Path {
            node: backing.node.clone(),
            ubd: None,
            undo: Vec::new(),
            _clusters: None,
        };
        // From here on, what was set up is taken down whatever happens.
        path.set_up(name, backing)
            .with_context(|| format!("failed to set up `{name}`"))?;
        Ok(path)
    }

    fn set_up(&mut self, name: &str, backing: &Backing) -> Result<()> {
        match name {
            "raw" => {}
            "dm-linear" => self.dm_linear()?,
            "loop" => self.kernel_loop()?,
            "rublk" => self.rublk()?,
            "mapped" => self.ubd("--bpf-fastpath", mapped(backing))?,
            "worker" => {
                self.ubd("--bpf-fastpath", &["mapped", "file_worker"])?;
                self.claim()?;
            }
            "tracked" => {
                self.load("linear_tracked")?;
                let counters = match backing.is_file {
                    true => &["mapped", "tracked", "file_inline"][..],
                    false => &["mapped", "tracked"],
                };
                self.ubd("--bpf-fastpath=linear_tracked", counters)?;
            }
            "cluster" => {
                self._clusters = Some(clusters::identity("bench", Source::cluster())?);
                self.ubd("--bpf-fastpath=bench", &["mapped", "tracked"])?;
            }
            "cluster-fixed" => {
                self._clusters = Some(clusters::identity("bench", Source::cluster_fixed())?);
                self.ubd("--bpf-fastpath=bench", &["mapped"])?;
            }
            "declined" => {
                self.load("by_cookie")?;
                self.ubd("", &["declined"])?;
                // Cookie 1: the verdict is 0, which declines.
                sh(format!("ubd-bpf bind {} by_cookie --cookie 1", self.node))?;
            }
            "noprog" => self.ubd("", &["declined"])?,
            "zero-copy" => self.ubd("--zero-copy", &["declined"])?,
            "forward" => self.ubd("--forward", &["declined", "forwarded"])?,
            _ => bail!("there is no such path"),
        }
        sh("udevadm settle --timeout=60")?;
        Ok(())
    }

    fn dm_linear(&mut self) -> Result<()> {
        sh(format!(
            "modprobe dm-mod
             dmsetup create bench --table \"0 $(blockdev --getsz {0}) linear {0} 0\"",
            self.node
        ))?;
        self.undo.push("dmsetup remove bench".into());
        self.node = "/dev/mapper/bench".into();
        Ok(())
    }

    fn kernel_loop(&mut self) -> Result<()> {
        sh("modprobe loop")?;
        let node = sh(format!(
            "losetup --find --show --direct-io=on {}",
            self.node
        ))?;
        self.undo.push(format!("losetup --detach {node}"));
        let direct = sh(format!(
            "cat /sys/block/{}/loop/dio",
            node.replace("/dev/", "")
        ))?;
        ensure!(
            direct == "1",
            "the loop device does not bypass the page cache"
        );
        self.node = node;
        Ok(())
    }

    fn rublk(&mut self) -> Result<()> {
        sh("modprobe ublk_drv; udevadm settle --timeout=60")?;
        // rublk's numbers begin anew with every module that it finds.
        sh(format!(
            "timeout 120 rublk add loop -n 0 -f {} 2>&1",
            self.node
        ))?;
        self.undo.push("timeout 120 rublk del -n 0 2>&1".into());
        self.node = "/dev/ublkb0".into();
        Ok(())
    }

    /// Loads a program of the tests.
    fn load(&mut self, name: &str) -> Result<()> {
        sh(format!("ubd-bpf load \"$UBD_BPF_DIR/{name}.bpf.o\""))?;
        self.undo.push(format!("ubd-bpf unload {name}"));
        Ok(())
    }

    fn ubd(&mut self, options: &str, counters: &'static [&'static str]) -> Result<()> {
        let node = sh(format!(
            "ubd add -t loop --show --direct-io=on {options} -f {}",
            self.node
        ))?;
        // Before its program goes.
        self.undo.insert(0, format!("ubd del {node}"));
        self.ubd = Some(Ubd {
            disk: Disk::new(sysfs::parse_device(&node)?),
            counters,
            _claim: None,
        });
        self.node = node;
        Ok(())
    }

    /// Opens the device with O_EXCL.
    fn claim(&mut self) -> Result<()> {
        if let Some(ubd) = &mut self.ubd {
            let claim = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(nix::libc::O_EXCL)
                .open(&self.node)
                .with_context(|| format!("failed to claim `{}`", self.node))?;
            ubd._claim = Some(claim);
        }
        Ok(())
    }

    /// Does the I/Os of a job; fails if they took another way than the path's name says.
    pub fn measure(&self, job: &Job) -> Result<Done> {
        let before = self.counts()?;
        let done = fio::run(&self.node, job)?;
        for ((name, before), (_, after)) in before.iter().zip(self.counts()?) {
            let grown = after - before;
            // One in a hundred may be an exception, such as a file system that had to wait.
            ensure!(
                grown * 100 >= done.ios * 99,
                "of {} I/Os only {grown} are in the counter `{name}`",
                done.ios
            );
        }
        Ok(done)
    }

    fn counts(&self) -> Result<Vec<(&'static str, u64)>> {
        let Some(ubd) = &self.ubd else {
            return Ok(Vec::new());
        };
        let count = |name: &&'static str| {
            let text = ubd.disk.attr(name)?;
            let count = text
                .parse()
                .with_context(|| format!("the counter `{name}` is `{text}`"))?;
            Ok((*name, count))
        };
        ubd.counters.iter().map(count).collect()
    }
}

/// What counts mapped I/O that nobody else had to be woken for.
fn mapped(backing: &Backing) -> &'static [&'static str] {
    if backing.is_file {
        &["mapped", "file_inline"]
    } else {
        &["mapped"]
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        // The claim goes first.
        self.ubd = None;
        for script in &self.undo {
            // Whoever comes next and finds it in the way says so.
            if let Err(error) = sh(script) {
                println!("warning: {error:#}");
            }
        }
    }
}
