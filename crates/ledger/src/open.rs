//! Recovery of the local files: all headers are checked, the last file is read whole and copied to a new one.
//!
//! The valid part is copied because a file that saw a failed write is never appended to again: the system may have
//! dropped what it could not write while still showing it to readers. After the copy is flushed, what is read is what
//! is on the disk.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
    sync::Arc,
};

use crate::{
    LedgerError,
    checkpoint::SignedCheckpoint,
    disk::{Fill, read_whole, remove_for_good, remove_if_there},
    facts::Outline,
    file::{OpenOptions, Recovered},
    kind::Kind,
    layout::Shard,
    reader::Span,
    recovery::{Ending, Expect, FILE_BYTES_MAX, Found, Position, RootAt, Scanned, Visitor, read_header, scan},
    retain,
    seg::{Segment, entries::Entries, index::SealedIndex, seal},
    tree::{Frontier, Hash},
    wal::WalHeader,
    writer::{Pace, Writer, begin_file},
};

/// A recovered ledger.
pub(crate) struct Recovery {
    pub(crate) writer: Writer,
    pub(crate) spans: Vec<Span>,
    pub(crate) entries: Vec<Arc<Entries>>,
    pub(crate) indexes: Vec<Arc<SealedIndex>>,
    /// Position of the first record that is kept.
    pub(crate) first: u64,
    pub(crate) checkpoint: SignedCheckpoint,
    pub(crate) recovered: Recovered,
}

/// The recovered shard that is written.
struct Current {
    writer: Writer,
    spans: Vec<Span>,
    sealed: seal::Found,
    checkpoint: SignedCheckpoint,
    recovered: Recovered,
}

/// Recovers all shards of a ledger that is locked by this process, oldest first.
pub(crate) fn recover_all(
    ledger: &Path,
    shards: &[Arc<Shard>],
    options: &OpenOptions,
) -> Result<Recovery, LedgerError> {
    let (current, closed) = shards.split_last().ok_or(LedgerError::Closed)?;
    let released = closed.iter().take_while(|shard| shard.is_released()).count();
    for shard in &closed[..released] {
        retain::finish(shard, &*options.disk)?;
    }
    let first = shards.get(released).map_or(0, |shard| shard.base);
    let (mut spans, mut entries, mut indexes) = (Vec::new(), Vec::new(), Vec::new());
    for (shard, next) in closed.iter().zip(&shards[1..]).skip(released) {
        let (found, files) = recover_closed(ledger, shard, next.base - shard.base, options)?;
        // Shards are sealed in order, so that what is sealed has no gap.
        if !spans.is_empty() && !found.entries.is_empty() {
            return Err(LedgerError::Missing {
                path: shard.dir.join("seg"),
                detail: "the sealed segments before those of this shard",
            });
        }
        spans.extend(files);
        entries.extend(found.entries);
        indexes.extend(found.indexes);
    }
    let found = recover(ledger, current, options)?;
    spans.extend(found.spans);
    entries.extend(found.sealed.entries);
    indexes.extend(found.sealed.indexes);
    Ok(Recovery {
        writer: found.writer,
        spans,
        entries,
        indexes,
        first,
        checkpoint: found.checkpoint,
        recovered: found.recovered,
    })
}

/// Recovers a closed shard of so many records: what is not sealed yet is read whole, and must lead to the final checkpoint.
fn recover_closed(
    ledger: &Path,
    shard: &Shard,
    size: u64,
    options: &OpenOptions,
) -> Result<(seal::Found, Vec<Span>), LedgerError> {
    seal::clean(shard)?;
    let sealed = seal::find(shard, Some(&*options.disk), Some(size))?;
    if sealed.records() == size {
        for number in shard.wals().unwrap_or_default() {
            // Nothing is read from it, so one that stays is no reason not to start; the next start tries again.
            if let Err(error) = remove_for_good(&*options.disk, &shard.wal(number)) {
                tracing::warn!(%error, "a file whose records are sealed stays until the next start");
            }
        }
        return Ok((sealed, Vec::new()));
    }
    let last = shard.read_checkpoint()?.checkpoint().clone();
    let mut watch = Watch::new(last.size, last.root);
    let heads = read_heads(shard, sealed.records())?;
    let mut spans = Vec::new();
    let mut end = None;
    for (at, head) in heads.iter().enumerate() {
        let (path, _, scanned) = scan_file(shard, head, heads.get(at + 1), &mut watch)?;
        spans.push(Span::new(shard, head.number, &scanned.positions));
        end = Some((path, scanned));
    }
    let (path, scanned) = end.ok_or_else(|| no_head(shard))?;
    let missing = |what, need| rolled_back(ledger, shard, &path, &scanned, what, need);
    check_seen(&scanned.frontier, &watch.checkpoint, 0, missing)?;
    Ok((sealed, spans))
}

fn no_head(shard: &Shard) -> LedgerError {
    LedgerError::Missing {
        path: shard.wal(1),
        detail: "the head of the log",
    }
}

/// Reads one file whole.
fn scan_file(
    shard: &Shard,
    head: &Head,
    next: Option<&Head>,
    watch: &mut Watch,
) -> Result<(std::path::PathBuf, Vec<u8>, Scanned), LedgerError> {
    let path = shard.wal(head.number);
    let bytes = read_whole(&path, FILE_BYTES_MAX, "a file of the log")?;
    let scanned = scan(&path, &bytes, &Expect::of(shard, head.number), watch)?;
    check_end(&path, &scanned, next.map(|next| &next.header))?;
    Ok((path, bytes, scanned))
}

/// The header of one file.
pub(crate) struct Head {
    pub(crate) number: u64,
    pub(crate) header: WalHeader,
    len: u64,
    frame_len: usize,
}

/// Watches for the checkpoint's root, and remembers the kind of the last record.
struct Watch {
    checkpoint: RootAt,
    last: Option<Kind>,
}

impl Watch {
    fn new(size: u64, root: Hash) -> Self {
        Self {
            checkpoint: RootAt { size, root, met: false },
            last: None,
        }
    }
}

impl Visitor for Watch {
    fn record(&mut self, record: &Found<'_>, _: u64) -> Result<(), LedgerError> {
        self.last = Outline::read(record.bytes).kind;
        Ok(())
    }

    fn wants_root(&self, size: u64) -> bool {
        size == self.checkpoint.size
    }

    fn root(&mut self, _: u64, root: Hash) -> Result<(), LedgerError> {
        self.checkpoint.compare(root)
    }
}

/// Recovers the shard that is written.
fn recover(ledger: &Path, shard: &Shard, options: &OpenOptions) -> Result<Current, LedgerError> {
    let checkpoint = shard.read_checkpoint()?;
    let signed = checkpoint.checkpoint();
    seal::clean(shard)?;
    let sealed = seal::find(shard, Some(&*options.disk), None)?;
    let heads = read_heads(shard, sealed.records())?;
    let mut watch = Watch::new(signed.size, signed.root);
    let begin = heads.first().map_or(0, |head| head.header.frontier.size());
    if signed.size <= begin && begin > 0 {
        watch.checkpoint.compare(sealed.root_at(signed.size)?)?;
    }
    // The file in which the checkpoint was signed and all after it; normally the last alone.
    let from = heads
        .iter()
        .rposition(|head| head.header.frontier.size() < signed.size)
        .unwrap_or(0);
    let mut last = None;
    for (at, head) in heads.iter().enumerate().skip(from) {
        last = Some(scan_file(shard, head, heads.get(at + 1), &mut watch)?);
    }
    let (path, bytes, scanned) = last.ok_or_else(|| no_head(shard))?;
    let missing = |what, need| rolled_back(ledger, shard, &path, &scanned, what, need);
    let applied = options.applied.saturating_sub(shard.base);
    check_seen(&scanned.frontier, &watch.checkpoint, applied, missing)?;
    check_whole(&path, &scanned)?;
    let recovered = Recovered {
        size: shard.base + scanned.frontier.size(),
        root: scanned.frontier.root(),
        checkpoint_size: signed.size,
        clean_stop: watch.last == Some(Kind::LogClose),
        cut: scanned.ending == Ending::Torn,
    };
    let spans = spans(shard, &heads, &scanned);
    let writer = copy(shard, options, &bytes, scanned)?;
    Ok(Current {
        writer,
        spans,
        sealed,
        checkpoint,
        recovered,
    })
}

/// Reads the headers of all files and checks that they follow one another, from at most the end of the `sealed` records on.
pub(crate) fn read_heads(shard: &Shard, sealed: u64) -> Result<Vec<Head>, LedgerError> {
    let mut heads: Vec<Head> = Vec::new();
    let numbers = shard.wals()?;
    // Files are removed from the front, when their records are sealed.
    let first = numbers.first().copied().unwrap_or(1);
    for (expected, number) in (first..).zip(numbers) {
        if number != expected {
            return Err(LedgerError::Missing {
                path: shard.wal(expected),
                detail: "a file of the log",
            });
        }
        let path = shard.wal(number);
        let (bytes, len) = read_start(&path)?;
        let (header, frame_len) = read_header(&path, &bytes, &Expect::of(shard, number))?;
        let refuse = |problem: String| LedgerError::Corrupt {
            path: path.clone(),
            offset: 0,
            index: header.frontier.size(),
            problem,
        };
        match heads.last() {
            None if header.frontier.size() > sealed => {
                // What was sealed is looked for where it was.
                let lost_segment = Segment::of(sealed).index(shard).exists();
                return Err(match lost_segment {
                    true => LedgerError::Missing {
                        path: Segment::of(sealed).entries(shard),
                        detail: "a sealed segment",
                    },
                    false => LedgerError::Missing {
                        path: shard.wal(number - 1),
                        detail: "a file of the log",
                    },
                });
            }
            None => {}
            Some(before) => {
                if before.header.frontier.size() >= header.frontier.size() {
                    return Err(refuse("the file begins before the one before it".into()));
                }
                if before.len < header.previous_len {
                    return Err(LedgerError::Corrupt {
                        path: shard.wal(before.number),
                        offset: before.len,
                        index: before.header.frontier.size(),
                        problem: format!("the file was truncated; it had at least {} bytes", header.previous_len),
                    });
                }
            }
        }
        heads.push(Head {
            number,
            header,
            len,
            frame_len,
        });
    }
    Ok(heads)
}

fn read_start(path: &Path) -> Result<(Vec<u8>, u64), LedgerError> {
    let metadata = fs::symlink_metadata(path).map_err(LedgerError::io("read", path))?;
    if !metadata.is_file() {
        return Err(LedgerError::Unsafe {
            path: path.to_owned(),
            problem: "is no plain file; the ledger follows no links".into(),
        });
    }
    let mut bytes = Vec::with_capacity(WalHeader::FRAME_BYTES_MAX);
    File::open(path)
        .and_then(|file| file.take(WalHeader::FRAME_BYTES_MAX as u64).read_to_end(&mut bytes))
        .map_err(LedgerError::io("read", path))?;
    Ok((bytes, metadata.len()))
}

/// A file before another must be whole and end where the next one says; the last must not say that there is another.
pub(crate) fn check_end(path: &Path, scanned: &Scanned, next: Option<&WalHeader>) -> Result<(), LedgerError> {
    let refuse = |problem: &str| LedgerError::Corrupt {
        path: path.to_owned(),
        offset: scanned.end,
        index: scanned.frontier.size(),
        problem: problem.to_owned(),
    };
    match next {
        Some(next) => {
            let follows = next.frontier == scanned.frontier
                && next.previous_len == scanned.end
                && next.control_head == scanned.control_head;
            // A torn end here is the frame that names the next file, which came first: no record is there.
            if !follows {
                return Err(refuse("the file does not end where the next one begins"));
            }
            check_whole(path, scanned)
        }
        None if scanned.ending == Ending::Next => {
            let next = path.with_file_name(format!("{:08}.wal", scanned.header.number + 1));
            Err(LedgerError::Missing {
                path: next,
                detail: "the file of the log that follows",
            })
        }
        None => Ok(()),
    }
}

/// Refuses a log that is shorter than anyone has seen it.
fn check_seen(
    tree: &Frontier,
    checkpoint: &RootAt,
    applied: u64,
    missing: impl Fn(&'static str, u64) -> LedgerError,
) -> Result<(), LedgerError> {
    if tree.size() < checkpoint.size {
        return Err(missing("the last signed checkpoint", checkpoint.size));
    }
    if tree.size() < applied {
        return Err(missing("the state view", applied));
    }
    if !checkpoint.met {
        return Err(LedgerError::Forked {
            size: checkpoint.size,
            what: "the last signed checkpoint",
        });
    }
    Ok(())
}

/// Says where the last file ends and who has seen more of the log than that.
pub(crate) fn rolled_back(
    ledger: &Path,
    shard: &Shard,
    path: &Path,
    last: &Scanned,
    what: &'static str,
    need: u64,
) -> LedgerError {
    LedgerError::RolledBack {
        ledger: ledger.to_owned(),
        file: path.strip_prefix(ledger).unwrap_or(path).to_owned(),
        end: last.end,
        what,
        have: shard.base + last.frontier.size(),
        need: shard.base + need,
    }
}

/// The last file must not be shorter than its reserved space, even where nobody knows of records that are missing.
pub(crate) fn check_whole(path: &Path, last: &Scanned) -> Result<(), LedgerError> {
    if last.ending != Ending::Truncated {
        return Ok(());
    }
    Err(LedgerError::Corrupt {
        path: path.to_owned(),
        offset: last.end,
        index: last.frontier.size(),
        problem: "the file was truncated here, and more records may have followed".into(),
    })
}

fn spans(shard: &Shard, heads: &[Head], last: &Scanned) -> Vec<Span> {
    let begin = |head: &Head| Position {
        index: head.header.frontier.size(),
        offset: head.frame_len as u64,
    };
    let mut spans: Vec<Span> = heads
        .iter()
        .map(|head| Span::new(shard, head.number, &[begin(head)]))
        .collect();
    if let (Some(span), Some(head)) = (spans.last_mut(), heads.last()) {
        *span = Span::new(shard, head.number, &last.positions);
    }
    spans
}

/// Copies the valid part of the last file to a new one of the same name and goes on there.
fn copy(shard: &Shard, options: &OpenOptions, bytes: &[u8], scanned: Scanned) -> Result<Writer, LedgerError> {
    let sizes = crate::writer::Sizes {
        // The step is the file's own: its length is judged by it.
        reserve: scanned.header.reserve,
        ..options.sizes()
    };
    for leftover in fs::read_dir(shard.head()).map_err(LedgerError::io("list", shard.head()))? {
        let path = leftover.map_err(LedgerError::io("list", shard.head()))?.path();
        if path.extension().is_some_and(|extension| extension == "new") {
            remove_if_there(&path)?;
        }
    }
    let valid = usize::try_from(scanned.end)
        .ok()
        .and_then(|end| bytes.get(..end))
        .unwrap_or(bytes);
    let number = scanned.header.number;
    let (file, reserved) = begin_file(&*options.disk, shard, number, valid, (sizes.reserve, Fill::Zeros))?;
    Ok(Writer {
        disk: Arc::clone(&options.disk),
        shard: shard.clone(),
        sizes,
        file,
        number,
        at: scanned.end,
        reserved,
        first_group: scanned.header.to_frame().len() as u64,
        frontier: scanned.frontier,
        control_head: scanned.control_head,
        pace: Pace::default(),
    })
}
