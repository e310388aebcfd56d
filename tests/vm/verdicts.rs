// SPDX-License-Identifier: MIT OR Apache-2.0
use crate::support::Test;

pub const TESTS: &[Test] = &[];
