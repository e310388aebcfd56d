// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that people name, which may have no end.

use crate::error::{Context, Error, Kind, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The bytes of the file at `path`, or of a pipe.
///
/// # Errors
/// [`Kind::Usage`]: it is longer than `most` bytes. And those of reading.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let name = path.display().to_string();
    let file = File::open(path).context(|| format!("failed to read `{name}`"))?;
    read_all(file, &name, most)
}

/// The same of what is open, and called `name`.
pub fn read_all(from: impl Read, name: &str, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most + 1)
        .read_to_end(&mut bytes)
        .context(|| format!("failed to read `{name}`"))?;
    if bytes.len() as u64 > most {
        let why = format!("failed to read `{name}`: it is longer than {most} bytes");
        return Err(Error::new(Kind::Usage, why));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_much_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "four").unwrap();
        assert_eq!(read(file.path(), 4).unwrap(), b"four");
        let said = read(file.path(), 3).unwrap_err();
        assert_eq!(said.kind(), Kind::Usage);
        assert!(said.to_string().contains("longer than 3 bytes"), "{said}");
        let endless = read(Path::new("/dev/zero"), 1 << 16).unwrap_err();
        assert_eq!(endless.kind(), Kind::Usage);
    }
}
