// SPDX-License-Identifier: MIT OR Apache-2.0
//! The life of a device: from ADD to DEL.

use super::queues::Queues;
use super::record::{Record, RecordDir};
use super::wait::{wait, Bell, Event, Signals};
use super::{harden, Config, FastPath, Started};
use crate::channel::CharNode;
use crate::control::Control;
use crate::error::{Error, Kind, Result};
use crate::fastpath::Own;
use crate::target::Target;
use crate::uapi::ublk;
use std::sync::Arc;

/// A device that this process serves; dropping it removes it from the system.
pub(super) struct Device {
    control: Control,
    info: ublk::DevInfo,
    node: Option<Arc<CharNode>>,
    queues: Queues,
    bell: Bell,
    records: Option<RecordDir>,
    own_program: Option<Own>,
    /// Somebody else has stopped the device, and will delete it.
    let_go: bool,
}

impl Device {
    /// Adds the device and brings it up to where its disk is there.
    pub(super) fn start(config: Config) -> Result<Self> {
        let Config {
            control,
            add,
            target,
            fast_path,
            forward,
        } = config;
        let bell = Bell::new()?;
        let records = RecordDir::open().map_err(|err| log::warn!("{err:#}")).ok();
        let info = control.add(&add)?;
        // From here on, any failure drops the device and so removes it.
        let mut device = Device {
            control,
            info,
            node: None,
            queues: Queues::default(),
            bell,
            records,
            own_program: None,
            let_go: false,
        };
        device.bring_up(&target, fast_path.as_ref(), forward)?;
        device.record(&*target);
        Ok(device)
    }

    fn bring_up(
        &mut self,
        target: &Arc<dyn Target>,
        fast_path: Option<&FastPath>,
        forward: bool,
    ) -> Result<()> {
        let id = self.info.dev_id;
        let node = Arc::new(CharNode::open(id)?);
        self.node = Some(node.clone());
        if let Some(fast_path) = fast_path.filter(|fast_path| !fast_path.settings.is_empty()) {
            let own = Own::load(&fast_path.program, id, &fast_path.settings)?;
            self.own_program = Some(own);
        }
        // Nothing is opened by its path any more.
        harden::mounts();

        let params = target.geometry().params(self.info.max_io_buf_bytes);
        self.control.set_params(id, &params)?;
        let cpus = (0..self.info.nr_hw_queues)
            .map(|queue| self.control.queue_affinity(id, queue))
            .collect::<Result<_>>()?;
        if !self
            .queues
            .start(&node, &self.info, cpus, target, forward, &self.bell)?
        {
            drop(node);
            self.control.stop(id)?;
            self.queues.join()?;
            return Err(Error::new(
                Kind::Protocol,
                "a queue ended before the device started",
            ));
        }
        if fast_path.is_some() || forward {
            for slot in target.slots() {
                self.control.register_slot(id, &slot)?;
            }
        }
        if let Some(fast_path) = fast_path {
            let own = self.own_program.as_ref().map(|own| own.name().as_str());
            let program = own.unwrap_or(&fast_path.program);
            self.control.bind(id, program, fast_path.cookie)?;
        }
        self.control.start(id, std::process::id())
    }

    fn record(&self, target: &dyn Target) {
        let Some(records) = &self.records else { return };
        let record = Record {
            pid: std::process::id() as i32,
            target: target.name().to_owned(),
            members: target.members(),
        };
        if let Err(err) = records.write(self.info.dev_id, &record) {
            log::warn!("{err:#}; `ubd list` will not show the target");
        }
    }

    pub(super) fn started(&self) -> Started {
        Started {
            id: self.info.dev_id,
        }
    }

    /// Serves until a signal comes or the device is stopped.
    pub(super) fn serve(mut self, signals: &Signals) -> Result<()> {
        match wait(signals, &self.bell)? {
            Event::Signal => Ok(()), // and dropping `self` removes the device
            Event::QueueEnded => {
                // Either all queues end, for somebody stops the device, and
                // stopping it again changes nothing; or one has failed, and
                // the others must end too.
                self.stop();
                let end = self.queues.join();
                self.let_go = end.is_ok();
                end
            }
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
        if !self.let_go {
            self.stop();
        }
        if let Err(err) = self.queues.join() {
            log::error!("{err:#}");
        }
        if let Some(records) = &self.records {
            records.remove(id);
        }
        // Before the number can be another device's.
        self.own_program = None;
        // Deleting waits until the node is closed.
        self.node = None;
        if self.let_go {
            return;
        }
        match self.control.del(id) {
            Err(err) if err.kind() != Kind::NotFound => log::error!("{err:#}"),
            _ => {}
        }
    }
}
