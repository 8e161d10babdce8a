//! Anonymous memory as a file, sealed so that whoever receives its descriptor may map it without trusting the sender.

use std::{fs::File, io, os::fd::AsFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

/// A memory file with these bytes that nobody, the maker included, can write, grow or shorten any more (memfd_create(2)).
///
/// # Errors
/// Whatever the kernel answers: no memory, no descriptor, or a name longer than 249 bytes.
pub fn sealed(name: &str, bytes: &[u8]) -> io::Result<File> {
    use io::{Seek, Write};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::NOEXEC_SEAL;
    let fd = match memfd_create(name, flags) {
        // MFD_NOEXEC_SEAL came with kernel 6.3.
        Err(rustix::io::Errno::INVAL) => memfd_create(name, flags - MemfdFlags::NOEXEC_SEAL)?,
        other => other?,
    };
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    file.rewind()?;
    fcntl_add_seals(
        &file,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
    )?;
    Ok(file)
}

/// Whether the file can never become shorter, whoever holds it.
pub fn is_sealed_against_shrinking(file: impl AsFd) -> bool {
    fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn sealed_memory_cannot_be_written_grown_or_shortened() {
        let mut file = sealed("test", b"0123456789abcdef").unwrap();
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(1).is_err());
        assert!(file.set_len(100).is_err());
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "0123456789abcdef");
        assert!(is_sealed_against_shrinking(&file));
        assert!(!is_sealed_against_shrinking(tempfile::tempfile().unwrap()));
    }
}
