// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's interfaces, bit for bit: `linux/ublk_cmd.h` in [`ublk`],
//! `kmod/ubd_cmd.h` and `bpf/ubd_bpf.h` in [`ubd`].
//!
//! Only what this project uses is here. Layouts are asserted where they are
//! defined, and `tests/abi.rs` compares them with the C headers.

pub mod ubd;
pub mod ublk;

/// A structure that crosses the boundary to the kernel as bytes. All that are
/// are declared so in one way, which also fixes their sizes.
pub trait Plain: plain::Plain + Copy {
    /// All bytes zero.
    fn zeroed() -> Self {
        // SAFETY: every bit pattern is a value of a `plain::Plain` type.
        unsafe { std::mem::zeroed() }
    }

    /// The bytes of the structure.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: `boundary!` takes no structure with padding, so all bytes are initialised.
        unsafe { plain::as_bytes(self) }
    }
}

impl<T: plain::Plain + Copy> Plain for T {}

/// Declares `repr(C)` structures without padding as [`Plain`], and fixes their sizes.
macro_rules! boundary {
    ($($name:ident: $size:expr),* $(,)?) => {$(
        const _: () = assert!(size_of::<$name>() == $size);
        // SAFETY: `repr(C)` of integers and arrays of them; the size asserted
        // above is the sum of the members, so there is no padding.
        unsafe impl ::plain::Plain for $name {}
    )*};
}
pub(crate) use boundary;

/// The number of an ioctl, as `_IOC` makes it.
pub(crate) const fn ioc(dir: u32, ty: u8, nr: u8, size: usize) -> u32 {
    (dir << 30) | ((size as u32) << 16) | ((ty as u32) << 8) | nr as u32
}

pub(crate) const IOC_WRITE: u32 = 1;
pub(crate) const IOC_READ: u32 = 2;

/// A flag or limit that counts only when something is so.
pub(crate) fn when(is_so: bool, value: u32) -> u32 {
    if is_so {
        value
    } else {
        0
    }
}

/// The text in a fixed, NUL-terminated field.
pub fn c_text(field: &[u8]) -> String {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}
