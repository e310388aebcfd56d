// SPDX-License-Identifier: MIT OR Apache-2.0
//! Objects with something wrong in them: bytes, headers, tables, types.

use fastrand::Rng;

/// `struct Elf64_Ehdr` and `struct Elf64_Shdr`, as far as they are met here.
const E_SHOFF: usize = 0x28;
const E_SHNUM: usize = 0x3c;
const SECTION_HEADER: usize = 64;
/// Offset and bytes of the fields of a section header.
const FIELDS: [(usize, usize); 10] = [
    (0, 4),  // name
    (4, 4),  // type
    (8, 8),  // flags
    (16, 8), // address
    (24, 8), // offset
    (32, 8), // size
    (40, 4), // link
    (44, 4), // info
    (48, 8), // alignment
    (56, 8), // bytes of an entry
];
const BTF_MAGIC: [u8; 3] = [0x9f, 0xeb, 1];

/// One to three changes of one good object.
pub fn mutant(good: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..rng.usize(1..=3) {
        match rng.u32(0..10) {
            0 => flip(&mut bytes, rng),
            1 => bytes.truncate(rng.usize(0..=bytes.len())),
            2 => elf_header(&mut bytes, rng),
            3 | 4 => section_header(&mut bytes, rng),
            5 => swap_sections(&mut bytes, rng),
            6 | 7 => in_section(&mut bytes, rng),
            _ => btf(&mut bytes, rng),
        }
    }
    bytes
}

fn flip(bytes: &mut [u8], rng: &mut Rng) {
    for _ in 0..rng.usize(1..=16) {
        if !bytes.is_empty() {
            let at = rng.usize(..bytes.len());
            bytes[at] ^= 1 << rng.u32(..8);
        }
    }
}

/// Numbers at which readers go wrong.
fn hostile(was: u64, len: usize, rng: &mut Rng) -> u64 {
    match rng.u32(0..9) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => i64::MAX as u64,
        4 => u64::from(u32::MAX) - rng.u64(..8),
        5 => len as u64,
        6 => was.wrapping_add(rng.u64(..16)).wrapping_sub(8),
        7 => rng.u64(..) >> rng.u32(..64),
        _ => rng.u64(..64),
    }
}

fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let mut wide = [0; 8];
    wide[..size].copy_from_slice(bytes.get(at..at + size)?);
    Some(u64::from_le_bytes(wide))
}

fn poke(bytes: &mut [u8], at: usize, size: usize, rng: &mut Rng) {
    if let Some(was) = number(bytes, at, size) {
        let new = hostile(was, bytes.len(), rng).to_le_bytes();
        bytes[at..at + size].copy_from_slice(&new[..size]);
    }
}

fn elf_header(bytes: &mut [u8], rng: &mut Rng) {
    let (at, size) = [
        (4, 1),
        (5, 1),
        (16, 2),
        (18, 2),
        (0x28, 8),
        (0x34, 2),
        (0x3a, 2),
        (0x3c, 2),
        (0x3e, 2),
    ][rng.usize(..9)];
    poke(bytes, at, size, rng);
}

/// Where the header of a random section is.
fn some_header(bytes: &[u8], rng: &mut Rng) -> Option<usize> {
    let start = number(bytes, E_SHOFF, 8)? as usize;
    let count = number(bytes, E_SHNUM, 2)? as usize;
    let at = start.checked_add(rng.usize(..count.max(1)) * SECTION_HEADER)?;
    (at.checked_add(SECTION_HEADER)? <= bytes.len()).then_some(at)
}

fn section_header(bytes: &mut [u8], rng: &mut Rng) {
    if let Some(at) = some_header(bytes, rng) {
        let (offset, size) = FIELDS[rng.usize(..FIELDS.len())];
        poke(bytes, at + offset, size, rng);
    }
}

fn swap_sections(bytes: &mut [u8], rng: &mut Rng) {
    let (Some(one), Some(two)) = (some_header(bytes, rng), some_header(bytes, rng)) else {
        return;
    };
    let (offset, size) = match rng.u32(0..3) {
        0 => (0, SECTION_HEADER),
        1 => (24, 16), // offset and size
        _ => (0, 8),   // name and type
    };
    for byte in offset..offset + size {
        bytes.swap(one + byte, two + byte);
    }
}

/// Words, so that relocations, symbols and instructions get whole wrong fields.
fn in_section(bytes: &mut [u8], rng: &mut Rng) {
    let Some(header) = some_header(bytes, rng) else {
        return;
    };
    let (Some(start), Some(len)) = (number(bytes, header + 24, 8), number(bytes, header + 32, 8))
    else {
        return;
    };
    for _ in 0..rng.usize(1..=4) {
        let size = [1, 2, 4, 8][rng.usize(..4)];
        if let Some(words) = len.checked_div(size as u64).filter(|words| *words > 0) {
            let at = start.checked_add(rng.u64(..words) * size as u64);
            if let Some(at) = at.filter(|at| *at < bytes.len() as u64) {
                poke(bytes, at as usize, size, rng);
            }
        }
    }
}

/// A word of the type information: its header, or one of its types.
fn btf(bytes: &mut [u8], rng: &mut Rng) {
    let Some(start) = bytes.windows(3).position(|window| window == BTF_MAGIC) else {
        return;
    };
    let types = number(bytes, start + 12, 4).unwrap_or(0).clamp(4, 1 << 20) as usize;
    let at = match rng.u32(0..4) {
        0 => start + 4 * rng.usize(..6),
        _ => start + 24 + 4 * rng.usize(..types / 4),
    };
    poke(bytes, at, 4, rng);
}
