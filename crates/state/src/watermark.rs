//! A small file beside the store that remembers how much of the ledger was ever seen. It outlives a lost or damaged store,
//! so that a ledger that was rolled back is noticed even then.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use ring::digest;

use crate::error::StateError;
use crate::store::{Mark, sync_folder};

const NAME: &str = "watermark";
const HEAD: &str = "mintage-state-watermark 1";
/// Three short lines; whatever is longer is not ours.
const BYTES_MAX: u64 = 512;

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The mark.
    Mark(Mark),
    /// No file.
    Nothing,
    /// A file that cannot be read: it is told in the log and written anew.
    Damaged,
}

/// Reads the watermark of `dir`.
pub(crate) fn read(dir: &Path) -> Result<Seen, StateError> {
    let path = path_of(dir);
    match fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Seen::Nothing),
        Err(error) => return Err(StateError::io("read", path)(error)),
        Ok(data) if !data.is_file() || data.len() > BYTES_MAX => return Ok(Seen::Damaged),
        Ok(_) => {}
    }
    let bytes = fs::read(&path).map_err(StateError::io("read", path))?;
    Ok(parse(&bytes).map_or(Seen::Damaged, Seen::Mark))
}

/// Replaces the watermark of `dir`, durably.
pub(crate) fn write(dir: &Path, mark: Mark) -> Result<(), StateError> {
    let path = path_of(dir);
    let new = dir.join("watermark.new");
    let make = || {
        let mut file = File::create(&new)?;
        file.write_all(format(mark).as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    make().map_err(StateError::io("write", &path))?;
    sync_folder(dir)
}

fn path_of(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

fn format(mark: Mark) -> String {
    let body = format!("{HEAD}\n{} {}\n", mark.applied, hex(&mark.leaf));
    let check = hex(digest::digest(&digest::SHA256, body.as_bytes()).as_ref());
    format!("{body}{check}\n")
}

fn parse(bytes: &[u8]) -> Option<Mark> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (applied, leaf) = text.lines().nth(1)?.split_once(' ')?;
    let leaf = leaf.parse::<mintage_identity::CertHash>().ok()?;
    let mark = Mark {
        applied: applied.parse().ok()?,
        leaf: *leaf.as_bytes(),
    };
    // Written again and compared whole: head, check and shape at once.
    (format(mark) == text).then_some(mark)
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark {
        applied: 12_345,
        leaf: [0xab; 32],
    };

    #[test]
    fn it_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), Seen::Nothing);
        write(dir.path(), MARK).unwrap();
        write(
            dir.path(),
            Mark {
                applied: 12_346,
                ..MARK
            },
        )
        .unwrap();
        assert_eq!(
            read(dir.path()).unwrap(),
            Seen::Mark(Mark {
                applied: 12_346,
                ..MARK
            })
        );
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_noticed() {
        let whole = format(MARK).into_bytes();
        for len in 0..whole.len() {
            assert_eq!(parse(&whole[..len]), None, "{len}");
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&flipped), None, "{bit}");
        }
    }
}
