// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's interfaces, bit for bit: `linux/ublk_cmd.h` in [`ublk`],
//! `kmod/ubd_cmd.h` and `bpf/ubd_bpf.h` in [`ubd`].
//!
//! Only what this project uses is here. Layouts are asserted where they are
//! defined, and `tests/abi.rs` compares them with the C headers.

pub mod ubd;
pub mod ublk;

/// A structure that crosses the boundary to the kernel as bytes.
///
/// # Safety
/// The type is `repr(C)`, has no padding, and every bit pattern is a value.
pub unsafe trait Plain: Copy {
    /// All bytes zero.
    fn zeroed() -> Self {
        // SAFETY: every bit pattern is a value of a `Plain` type.
        unsafe { std::mem::zeroed() }
    }

    /// The bytes of the structure.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: a `Plain` type has no padding, so all its bytes are initialised.
        unsafe { std::slice::from_raw_parts((self as *const Self).cast::<u8>(), size_of::<Self>()) }
    }
}

/// Declares structures as [`Plain`] and fixes their sizes.
macro_rules! plain {
    ($($name:ident: $size:expr),* $(,)?) => {$(
        const _: () = assert!(size_of::<$name>() == $size);
        // SAFETY: `repr(C)` of integers and arrays of them; the size asserted
        // above is the sum of the members, so there is no padding.
        unsafe impl $crate::uapi::Plain for $name {}
    )*};
}
pub(crate) use plain;

/// The number of an ioctl, as `_IOC` makes it.
pub(crate) const fn ioc(dir: u32, ty: u8, nr: u8, size: usize) -> u32 {
    (dir << 30) | ((size as u32) << 16) | ((ty as u32) << 8) | nr as u32
}

pub(crate) const IOC_WRITE: u32 = 1;
pub(crate) const IOC_READ: u32 = 2;

/// The text in a fixed, NUL-terminated field.
pub fn c_text(field: &[u8]) -> String {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}
