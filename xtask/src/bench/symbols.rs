// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest kernel's functions by address, those of modules and BPF programs included.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Addresses below are user space.
const KERNEL: u64 = 1 << 47;

pub struct Symbols {
    /// Where each function begins, in order.
    functions: Vec<(u64, String)>,
}

impl Symbols {
    /// From a copy of /proc/kallsyms.
    pub fn read(path: &Path) -> Result<Symbols> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("failed to read `{}`", path.display()))?;
        Ok(Symbols::parse(&text))
    }

    fn parse(text: &str) -> Symbols {
        let function = |line: &str| {
            let mut words = line.split_whitespace();
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            let text = matches!(words.next()?, "t" | "T" | "w" | "W");
            let name = words.next()?;
            let name = match words.next() {
                Some(module) => format!("{name} {module}"),
                None => name.to_owned(),
            };
            (text && address >= KERNEL).then_some((address, name))
        };
        let mut functions: Vec<_> = text.lines().filter_map(function).collect();
        functions.sort();
        Symbols { functions }
    }

    /// The function that has this address.
    pub fn name(&self, address: u64) -> &str {
        if address < KERNEL {
            return "user space";
        }
        let behind = self
            .functions
            .partition_point(|(start, _)| *start <= address);
        match behind.checked_sub(1) {
            Some(index) => &self.functions[index].1,
            None => "kernel, unknown",
        }
    }

    /// Where a function begins, whatever module it is in.
    pub fn address(&self, name: &str) -> Option<u64> {
        let is = |full: &str| full.split(' ').next() == Some(name);
        let found = self.functions.iter().find(|(_, full)| is(full));
        found.map(|(address, _)| *address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_belongs_to_the_function_before_it() {
        let symbols = Symbols::parse(
            "ffffffff81000200 T second\nffffffff81000100 t first\nffffffff81000180 D data\n\
             ffffffffc0000000 t inside\t[module]\n",
        );
        assert_eq!(symbols.name(0x40_0000), "user space");
        assert_eq!(symbols.name(0xffff_ffff_8100_0190), "first");
        assert_eq!(symbols.name(0xffff_ffff_8100_0200), "second");
        assert_eq!(symbols.name(0xffff_ffff_8000_0000), "kernel, unknown");
        assert_eq!(symbols.name(0xffff_ffff_c000_0001), "inside [module]");
        assert_eq!(symbols.address("inside"), Some(0xffff_ffff_c000_0000));
        assert_eq!(symbols.address("data"), None);
    }
}
