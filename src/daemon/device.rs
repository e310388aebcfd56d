// SPDX-License-Identifier: MIT OR Apache-2.0
//! The life of a device: from ADD to DEL, or from one daemon to the next.

use super::queues::Queues;
use super::record::{FastPathRecord, Lock, Process, Record, RecordDir};
use super::wait::{Bell, Signals};
use super::{unsupported, Config, FastPath, Job, Started, Takeover};
use crate::channel::CharNode;
use crate::control::{block_node, Control};
use crate::error::{Error, Kind, Result};
use crate::fastpath::Own;
use crate::target::Target;
use crate::uapi::{ubd, ublk};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long the other queues of a device have when one has failed.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// What becomes of the device when this process lets go of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// This process stops and deletes it.
    Deleted,
    /// Somebody else has stopped it, and will delete it.
    Stopped,
    /// It waits for the next daemon.
    Waits,
}

/// A device that this process serves; dropping it does what its fate says.
pub(super) struct Device {
    control: Control,
    info: ublk::DevInfo,
    /// This process, as long as /proc could be seen.
    me: Process,
    target: Arc<dyn Target>,
    fast_path: Option<FastPath>,
    forward: bool,
    /// It had a daemon before this one.
    taken_over: bool,
    node: Option<Arc<CharNode>>,
    queues: Queues,
    bell: Bell,
    records: Option<RecordDir>,
    /// While the device changes its daemon.
    lock: Option<Lock>,
    own_program: Option<Own>,
    fate: Fate,
}

impl Device {
    /// Everything that needs the file system.
    pub(super) fn prepare(job: Job) -> Result<Self> {
        let mut device = match job {
            Job::Add(config) => Device::add(config)?,
            Job::TakeOver(takeover) => Device::take_over(takeover)?,
        };
        device.node = Some(Arc::new(CharNode::open(device.info.dev_id)?));
        device.own_program = device.own_program()?;
        Ok(device)
    }

    fn add(config: Config) -> Result<Self> {
        let wanted = config.add.flags;
        let bell = Bell::new()?;
        let info = config.control.add(&config.add)?;
        // From here on, any failure drops the device and so removes it.
        let mut device = Device::new(config.control, info, config.target, bell, Fate::Deleted)?;
        device.fast_path = config.fast_path;
        device.forward = config.forward;
        let missing = wanted & !info.flags;
        if missing != 0 {
            let names = (0..64).filter(|bit| missing >> bit & 1 == 1).map(|bit| {
                let name = ublk::FEATURE_NAMES.get(bit);
                name.map_or_else(|| format!("bit {bit}"), |name| (*name).to_owned())
            });
            return Err(unsupported(format!(
                "the driver, or the running kernel, cannot do what was asked for: it lacks {}; \
                 see `ubd features`",
                names.collect::<Vec<_>>().join(", ")
            )));
        }
        Ok(device)
    }

    fn take_over(takeover: Takeover) -> Result<Self> {
        let Takeover {
            control,
            lock,
            id,
            target,
            ..
        } = takeover;
        let bell = Bell::new()?;
        // The node is closed when the last operation of the old daemon's rings has ended, so
        // nothing of it can come after what the new one does.
        let deadline = Instant::now() + takeover.patience;
        loop {
            match control.start_recovery(id) {
                Err(err) if err.kind() == Kind::Busy && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(10));
                }
                done => break done?,
            }
        }
        let info = control.dev_info(id)?;
        let mut device = Device::new(control, info, target, bell, Fate::Waits)?;
        device.fast_path = takeover.fast_path;
        device.forward = takeover.forward;
        device.taken_over = true;
        device.lock = Some(lock);
        Ok(device)
    }

    /// What fails here has its fate already.
    fn new(
        control: Control,
        info: ublk::DevInfo,
        target: Arc<dyn Target>,
        bell: Bell,
        fate: Fate,
    ) -> Result<Self> {
        let records = RecordDir::open();
        let mut device = Device {
            control,
            info,
            me: Process::me(),
            target,
            fast_path: None,
            forward: false,
            taken_over: false,
            node: None,
            queues: Queues::default(),
            bell,
            records: None,
            lock: None,
            own_program: None,
            fate,
        };
        device.records = match records {
            // A user's device has none: the directory is root's.
            _ if device.info.flags & ublk::F_UNPRIVILEGED_DEV != 0 => None,
            Ok(records) => Some(records),
            // Without a record nobody can take over.
            Err(err) if device.is_recoverable() => return Err(err),
            Err(err) => {
                log::warn!("{err:#}");
                None
            }
        };
        Ok(device)
    }

    /// The program with settings, which is the device's own.
    fn own_program(&self) -> Result<Option<Own>> {
        let own = |fast_path: &&FastPath| !fast_path.settings.is_empty();
        let Some(fast_path) = self.fast_path.as_ref().filter(own) else {
            return Ok(None);
        };
        let id = self.info.dev_id;
        if !self.taken_over {
            return Own::load(&fast_path.program, id, &fast_path.settings).map(Some);
        }
        // It was unloaded, as anybody may do, and the device has none since.
        Ok(Own::find(&fast_path.program, id)
            .inspect_err(|err| log::info!("{err:#}"))
            .ok())
    }

    /// Brings the device up to where it serves.
    pub(super) fn start(&mut self, signals: &Signals) -> Result<()> {
        let id = self.info.dev_id;
        let Some(node) = self.node.clone() else {
            return Err(Error::new(Kind::Protocol, "the device is not open"));
        };
        if !self.taken_over {
            let geometry = self.target.geometry();
            let mut params = geometry.params(self.info.max_io_buf_bytes);
            // The users' own memory goes to the backing.
            if self.info.flags & ublk::F_SUPPORT_ZERO_COPY != 0 {
                params.align_memory(geometry.memory_align);
            }
            self.control.set_params(id, &params)?;
        }
        let cpus = (0..self.info.nr_hw_queues)
            .map(|queue| self.control.queue_affinity(id, queue))
            .collect::<Result<_>>()?;
        if !self.queues.start(
            &node,
            &self.info,
            cpus,
            &self.target,
            self.forward,
            &self.bell,
        )? {
            return Err(self.failed_start(node));
        }
        if !self.taken_over {
            self.set_fast_path()?;
        }
        if self.taken_over {
            self.go_on(signals)?;
        }
        // Before the device serves: from its first request on it can be recovered.
        self.record()?;
        let pid = std::process::id();
        if self.taken_over {
            self.control.end_recovery(id, pid)?;
            self.go_on(signals)?;
            self.fate = Fate::Deleted;
            self.lock = None;
            Ok(())
        } else {
            self.control.start(id, pid)
        }
    }

    /// Who asks us to end asks for the end of what is ours, and a device that is being taken over is
    /// not yet.
    fn go_on(&self, signals: &Signals) -> Result<()> {
        if !signals.has_come()? {
            return Ok(());
        }
        let node = block_node(self.info.dev_id);
        Err(Error::new(
            Kind::Io,
            format!("interrupted before `{node}` had its new daemon"),
        ))
    }

    /// A queue has ended before its time: why?
    fn failed_start(&mut self, node: Arc<CharNode>) -> Error {
        drop(node);
        if self.fate == Fate::Deleted {
            self.stop();
            if let Err(err) = self.queues.join() {
                return err;
            }
        } else if self.queues.reap() {
            // The others end with the process.
            if let Err(err) = self.queues.first_failure() {
                return err;
            }
        }
        Error::new(Kind::Protocol, "a queue ended before the device started")
    }

    /// What lets the driver do I/O by itself; it stays when the daemon goes.
    fn set_fast_path(&self) -> Result<()> {
        let id = self.info.dev_id;
        if self.fast_path.is_some() || self.forward {
            for slot in self.target.slots() {
                self.control.register_slot(id, &slot)?;
            }
        }
        let Some(fast_path) = &self.fast_path else {
            return Ok(());
        };
        let own = self.own_program.as_ref().map(|own| own.name().as_str());
        let program = own.unwrap_or(&fast_path.program);
        if fast_path.stops_with_daemon {
            self.control.set_policy(id, ubd::POLICY_STOP_MAPPED)?;
        }
        self.control.bind(id, program, fast_path.cookie)
    }

    fn record(&self) -> Result<()> {
        let Some(records) = &self.records else {
            return Ok(());
        };
        let record = Record {
            target: self.target.name().to_owned(),
            members: self.target.members(),
            spec: self.target.spec(),
            fast_path: self.fast_path.as_ref().map(FastPathRecord::from),
            forward: self.forward,
            ..Record::new(&self.info, self.me)
        };
        match records.write(&record) {
            Err(err) if !self.is_recoverable() => {
                log::warn!("{err:#}; `ubd list` will not show the target");
                Ok(())
            }
            done => done,
        }
    }

    fn is_recoverable(&self) -> bool {
        self.info.flags & ublk::F_USER_RECOVERY != 0
    }

    pub(super) fn started(&self) -> Started {
        Started {
            id: self.info.dev_id,
        }
    }

    /// Rings when a queue ends.
    pub(super) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// A queue has ended: either all do, for somebody stops the device or wants another daemon for
    /// it, or it has failed, and the others must end too.
    pub(super) fn end(mut self) -> Result<()> {
        if self.is_recoverable() {
            // Whoever stops a device cleans up after it. This process cannot tell that from the
            // coming of another daemon before the node is closed, and then the number may be that
            // of another device.
            match self.let_go() {
                Ok(()) => {
                    self.fate = Fate::Waits;
                    return self.queues.join();
                }
                // Somebody has stopped it.
                Err(err) if err.kind() == Kind::NotFound => {}
                Err(_) => {
                    self.fate = Fate::Waits;
                    let failure = self.queues.first_failure();
                    self.let_go_later();
                    return failure;
                }
            }
        }
        // If somebody stops the device, stopping it again changes nothing.
        self.stop();
        let end = self.queues.join();
        if end.is_ok() {
            self.fate = Fate::Stopped;
        }
        end
    }

    /// Sees to it that all queues end, and the device does not.
    fn let_go(&mut self) -> Result<()> {
        if !self.queues.reap() {
            return Ok(());
        }
        let asked = self.control.quiesce(self.info.dev_id, Some(LAST_REQUESTS));
        asked.inspect_err(|err| log::error!("{err:#}"))
    }

    /// The other queues end with the process or, if that has more devices to serve, when they have
    /// done what they have.
    fn let_go_later(mut self) {
        let id = self.info.dev_id;
        let waiter = thread::Builder::new().name(format!("ubd{id}-end"));
        let waits = waiter.spawn(move || {
            if self.control.quiesce(id, None).is_ok() {
                let _ = self.queues.join();
            }
        });
        if let Err(err) = waits {
            log::error!("failed to wait for the queues of device {id}: {err}");
        }
    }

    /// Stops the device, so that the queues end.
    fn stop(&mut self) {
        match self.control.stop(self.info.dev_id) {
            Err(err) if err.kind() != Kind::NotFound => log::error!("{err:#}"),
            _ => {}
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let id = self.info.dev_id;
        if self.fate == Fate::Waits {
            // A start that has failed half-way leaves queues behind, which end with the process.
            if let Some(own) = self.own_program.take() {
                own.keep();
            }
            return;
        }
        if self.fate == Fate::Deleted {
            self.stop();
        }
        if let Err(err) = self.queues.join() {
            log::error!("{err:#}");
        }
        if let Some(records) = &self.records {
            records.remove(id);
        }
        // Before the number can be another device's; hence the node, too, is still open.
        self.own_program = None;
        if self.fate == Fate::Stopped {
            return;
        }
        match self.control.del(id) {
            Err(err) if err.kind() != Kind::NotFound => log::error!("{err:#}"),
            _ => {}
        }
    }
}

impl From<&FastPath> for FastPathRecord {
    fn from(fast_path: &FastPath) -> Self {
        FastPathRecord {
            program: fast_path.program.clone(),
            cookie: fast_path.cookie,
            settings: fast_path.settings.iter().map(ToString::to_string).collect(),
            stops_with_daemon: fast_path.stops_with_daemon,
        }
    }
}
