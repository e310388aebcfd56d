// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a device does when its daemon dies.

use crate::uapi::ublk;
use clap::ValueEnum;

/// What becomes of the I/O that needs a daemon while there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Recovery {
    /// It waits for the next daemon; what the old one had in hand fails
    Wait,
    /// It waits for the next daemon, which does again what the old one had in hand: a write may be
    /// done twice
    Reissue,
    /// It fails until there is one
    Fail,
}

impl Recovery {
    /// `F_*` of [`crate::uapi::ublk`].
    pub(super) fn flags(self) -> u64 {
        ublk::F_USER_RECOVERY
            | match self {
                Recovery::Wait => 0,
                Recovery::Reissue => ublk::F_USER_RECOVERY_REISSUE,
                Recovery::Fail => ublk::F_USER_RECOVERY_FAIL_IO,
            }
    }

    /// That of a device with these flags, if it can be recovered.
    pub(super) fn of(flags: u64) -> Option<Self> {
        let mask = Recovery::Reissue.flags() | Recovery::Fail.flags();
        let mut all = Recovery::value_variants().iter().copied();
        all.find(|it| flags & mask == it.flags())
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Recovery::Wait => "wait",
            Recovery::Reissue => "reissue",
            Recovery::Fail => "fail",
        }
    }
}

/// What becomes of mapped I/O when the daemon dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OnDeath {
    /// It goes on
    Continue,
    /// It shares the fate of what needs a daemon
    Stop,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_known_by_its_flags() {
        for policy in Recovery::value_variants() {
            let flags = policy.flags() | ublk::F_QUIESCE | ublk::F_CMD_IOCTL_ENCODE;
            assert_eq!(Recovery::of(flags), Some(*policy));
            let name = policy.to_possible_value().unwrap();
            assert_eq!(policy.name(), name.get_name());
        }
        assert_eq!(Recovery::of(ublk::F_CMD_IOCTL_ENCODE), None);
    }
}
