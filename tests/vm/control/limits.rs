// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a server says of the memory that it can take, the users' I/O keeps to.

use std::os::unix::fs::FileExt;

use anyhow::{ensure, Result};
use ubd_bpf::control::Control;

use super::commands::segments;
use super::server::{add, delete, open_node, params, Server, GOOD, IO_BYTES};
use crate::support::io::{open_direct, Aligned};

/// Alignment and segments, as the front shows them and as I/O meets them.
pub fn memory() -> Result<()> {
    let control = Control::open()?;
    let ubd = add(&control, None, 1, 4)?;
    let mut params = params();
    params.align_memory(512);
    segments(&mut params, 0xffff, 8192, 7);
    control.set_params(ubd.id(), &params)?;
    let is = control.params(ubd.id())?;
    ensure!(
        is.types & params.types == params.types
            && is.dma.alignment == 511
            && is.seg.max_segments == 7,
        "GET_PARAMS says {is:?}"
    );
    let server = Server::spawn(open_node(ubd.id())?, 4, GOOD);
    control.start(ubd.id(), std::process::id())?;
    for (name, should_be) in [
        ("dma_alignment", "511"),
        ("max_segment_size", "8192"),
        ("max_segments", "7"),
    ] {
        let is = ubd.attr(&format!("queue/{name}"))?;
        ensure!(is == should_be, "{name} is {is}, not {should_be}");
    }
    let file = open_direct(ubd.node(), true)?;
    // More memory than the segments of one request have room for.
    for len in [512, 4096, 256 << 10] {
        let mut buffer = Aligned::shifted(len, 512);
        ensure!(file.read_at(&mut buffer, 0)? == len, "a short read");
        ensure!(file.write_at(&buffer, 0)? == len, "a short write");
        let mut buffer = Aligned::shifted(len, 256);
        for (what, result) in [
            ("read", file.read_at(&mut buffer, 0)),
            ("write", file.write_at(&buffer, 0)),
        ] {
            let errno = result.err().and_then(|err| err.raw_os_error());
            ensure!(
                errno == Some(libc::EINVAL),
                "a {what} of {len} bytes out of line gave {errno:?}"
            );
        }
    }
    drop(file);
    delete(&control, ubd)?;
    server.quit()?;
    Ok(())
}

/// No block fits between two boundaries: what cannot be split does not outgrow the server's buffer.
pub fn unsplittable() -> Result<()> {
    let control = Control::open()?;
    let ubd = add(&control, None, 1, 4)?;
    let mut params = params();
    params.basic.logical_bs_shift = 12;
    segments(&mut params, 4095, 4096, 1);
    control.set_params(ubd.id(), &params)?;
    let server = Server::spawn(open_node(ubd.id())?, 4, GOOD);
    control.start(ubd.id(), std::process::id())?;
    let file = open_direct(ubd.node(), true)?;
    // Each block lies in two pages.
    let mut buffer = Aligned::shifted(4 * IO_BYTES, 512);
    for (what, result) in [
        ("read", file.read_at(&mut buffer, 0)),
        ("write", file.write_at(&buffer, 0)),
    ] {
        let errno = result.err().and_then(|err| err.raw_os_error());
        ensure!(
            matches!(errno, Some(libc::EIO | libc::EINVAL)),
            "a {what} that cannot be split gave {errno:?}"
        );
    }
    let mut buffer = Aligned::new(4 * IO_BYTES);
    ensure!(
        file.read_at(&mut buffer, 0)? == buffer.len(),
        "a short read"
    );
    drop(file);
    delete(&control, ubd)?;
    server.quit()?;
    Ok(())
}
