//! The layout of the node's map: 64 words of header, a directory, and the segments' words.
//!
//! The header's last words are stored to while readers look; everything the directory says is fixed for the file's life.
//! The map is of one machine: numbers are words in its byte order. Octets inside the directory are little endian.

use std::sync::{Arc, atomic::Ordering};

use mintage_sys::map::{ReadMap, Words};

use crate::{
    Exception, RevocationError, Rule, TrustDomainHash, View,
    body::{
        self, BodyIssuer, decode_exception, decode_issuer, decode_rules, encode_exception, encode_issuer, encode_rules,
    },
    bucket::Bucket,
    header::sha256,
    limits::{EXCEPTIONS_MAX, ISSUERS_MAX, RULES_MAX, SEGMENTS_MAX},
    lines::LineShape,
    octets::Fields,
    pulse::Pulse,
    segment::{Segment, Shape},
    view_issuer::ViewIssuer,
    words::LINE_WORDS,
};

const WHAT: &str = "map";
/// "MNTGMAP1" as a big-endian number: another byte order reads another number.
pub(crate) const MAGIC_VALUE: u64 = 0x4d4e_5447_4d41_5031;
pub(crate) const VERSION_VALUE: u64 = 2;

// Words of the header.
pub(crate) const MAGIC: usize = 0;
pub(crate) const VERSION: usize = 1;
pub(crate) const WORDS: usize = 2;
pub(crate) const DIRECTORY_AT: usize = 3;
pub(crate) const DIRECTORY_OCTETS: usize = 4;
pub(crate) const DIRECTORY_SHA256: usize = 5;
pub(crate) const TRUST_DOMAIN: usize = 9;
pub(crate) const EPOCH: usize = 13;
// The next words change while readers look.
pub(crate) const STATE: usize = 16;
pub(crate) const SEQUENCE: usize = 17;
pub(crate) const HEARTBEAT: usize = 18;
/// Right behind the heartbeat: both are read as one pulse.
pub(crate) const HORIZON: usize = HEARTBEAT + 1;
pub(crate) const GENERATION: usize = 20;
pub(crate) const HEADER_WORDS: usize = 64;

/// The file is written to.
pub(crate) const LIVE: u64 = 1;
/// A newer file stands under the name.
pub(crate) const SUPERSEDED: u64 = 2;

const HEAD: usize = 64;
const SEGMENT: usize = 48;

/// Word `at` of a mapped file; zero past its end.
#[inline]
pub(crate) fn number(map: &ReadMap, at: usize) -> u64 {
    map.as_words().get(at).map_or(0, |word| word.load(Ordering::Acquire))
}

/// Where a segment's words go.
pub(crate) struct Slot<'a> {
    pub(crate) issuer: usize,
    pub(crate) bucket: Bucket,
    pub(crate) segment: &'a Segment,
    pub(crate) first_word: usize,
}

/// A map to be written.
pub(crate) struct Plan<'a> {
    pub(crate) directory: Vec<u8>,
    pub(crate) slots: Vec<Slot<'a>>,
    pub(crate) words: usize,
}

impl<'a> Plan<'a> {
    /// Lays out `view`.
    pub(crate) fn of(view: &'a View) -> Result<Self, RevocationError> {
        let issuers: Vec<BodyIssuer> = view.issuers().iter().map(ViewIssuer::row).collect();
        let (rules, exceptions) = (view.rule_list(), view.exceptions());
        let rule_octets = encode_rules(&rules);
        let segments = view.issuers().iter().enumerate();
        let segments = segments.flat_map(|(issuer, held)| held.segments().iter().map(move |s| (issuer, s)));
        let segments: Vec<_> = segments.collect();
        let octets = HEAD
            + issuers.len() * body::ISSUER
            + segments.len() * SEGMENT
            + exceptions.len() * body::EXCEPTION
            + rule_octets.len();
        let mut directory = Vec::with_capacity(octets);
        for count in [issuers.len(), segments.len(), rules.len(), exceptions.len()] {
            directory.extend_from_slice(&body::small(count)?.to_le_bytes());
        }
        directory.extend_from_slice(&(rule_octets.len() as u64).to_le_bytes());
        directory.resize(HEAD, 0);
        issuers.iter().for_each(|issuer| encode_issuer(issuer, &mut directory));
        let mut next = (HEADER_WORDS + octets.div_ceil(8)).next_multiple_of(LINE_WORDS);
        let mut slots = Vec::with_capacity(segments.len());
        for (issuer, (bucket, segment)) in segments {
            encode_segment(issuer, *bucket, segment, next, &mut directory)?;
            slots.push(Slot {
                issuer,
                bucket: *bucket,
                segment,
                first_word: next,
            });
            next += segment.shape().words();
        }
        for exception in &exceptions {
            encode_exception(exception, &issuers, &mut directory)?;
        }
        directory.extend_from_slice(&rule_octets);
        Ok(Self {
            directory,
            slots,
            words: next,
        })
    }
}

fn encode_segment(
    issuer: usize,
    bucket: Bucket,
    segment: &Segment,
    first_word: usize,
    out: &mut Vec<u8>,
) -> Result<(), RevocationError> {
    let shape = segment.shape();
    out.extend_from_slice(&body::small(issuer)?.to_le_bytes());
    out.extend_from_slice(&[bucket.span() as u8, shape.lines.kind as u8, 0, 0]);
    for number in [
        bucket.index(),
        shape.blocks,
        shape.lines.lines,
        body::small(segment.count())?,
    ] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&(first_word as u64).to_le_bytes());
    out.extend_from_slice(&[0; 16]);
    Ok(())
}

/// Reads a map of `domain` into a view whose segments lie in it. Every length is checked against the file first.
pub(crate) fn read(map: &Arc<ReadMap>, domain: TrustDomainHash) -> Result<View, RevocationError> {
    if number(map, MAGIC) != MAGIC_VALUE {
        return refuse("it does not start with MNTGMAP1 in this machine's byte order");
    }
    if number(map, VERSION) != VERSION_VALUE {
        return Err(RevocationError::Unsupported {
            what: WHAT,
            found: number(map, VERSION),
            known: VERSION_VALUE,
        });
    }
    if number(map, WORDS) != map.len() as u64 || map.len() < HEADER_WORDS {
        return refuse(format!("it has {} words and says {}", map.len(), number(map, WORDS)));
    }
    if octets(map, TRUST_DOMAIN, 32).as_deref() != Some(&domain.0) {
        return Err(RevocationError::WrongTrustDomain);
    }
    let place = |word| usize::try_from(number(map, word)).ok();
    let directory = place(DIRECTORY_AT)
        .zip(place(DIRECTORY_OCTETS))
        .and_then(|(at, len)| octets(map, at, len));
    let Some(directory) = directory else {
        return refuse("its directory goes beyond its end");
    };
    if octets(map, DIRECTORY_SHA256, 32).as_deref() != Some(&sha256(&[&directory])) {
        return refuse("its directory is damaged");
    }
    let (issuers, rules, exceptions) = read_directory(map, &directory)?;
    let at = (number(map, EPOCH), number(map, SEQUENCE));
    let Some(pulse) = Pulse::of_map(map) else {
        return refuse("it has no room for its header");
    };
    Ok(View::of_map(at, issuers, &rules, &exceptions, pulse))
}

fn refuse<T>(problem: impl Into<String>) -> Result<T, RevocationError> {
    Err(RevocationError::malformed(WHAT, problem))
}

/// `len` octets from word `at` on; `None` when they go beyond the file's end.
fn octets(map: &ReadMap, at: usize, len: usize) -> Option<Vec<u8>> {
    let words = map.as_words().get(at..at.checked_add(len.div_ceil(8))?)?;
    let mut octets: Vec<u8> = words
        .iter()
        .flat_map(|word| word.load(Ordering::Acquire).to_ne_bytes())
        .collect();
    octets.truncate(len);
    Some(octets)
}

type Tables = (Vec<ViewIssuer>, Vec<Rule>, Vec<Exception>);

fn read_directory(map: &Arc<ReadMap>, directory: &[u8]) -> Result<Tables, RevocationError> {
    let Some((head, mut rest)) = directory.split_at_checked(HEAD) else {
        return refuse("its directory has no room for its head");
    };
    let mut fields = Fields::new(head);
    let mut count = |what, limit| {
        let found = u32::from_le_bytes(fields.array()) as usize;
        (found <= limit)
            .then_some(found)
            .ok_or(RevocationError::TooMany { what, limit, found })
    };
    let issuers = count("issuers", ISSUERS_MAX)?;
    let segments = count("segments", SEGMENTS_MAX)?;
    let rule_count = count("rules", RULES_MAX)?;
    let exceptions = count("exceptions", EXCEPTIONS_MAX)?;
    let rules_len = fields.number();
    let mut cut = |len: usize| {
        let (part, later) = rest.split_at_checked(len)?;
        rest = later;
        Some(part)
    };
    let parts = (|| {
        Some([
            cut(issuers * body::ISSUER)?,
            cut(segments * SEGMENT)?,
            cut(exceptions * body::EXCEPTION)?,
            cut(usize::try_from(rules_len).ok()?)?,
        ])
    })();
    let Some([issuers, segments, exceptions, rules]) = parts.filter(|_| rest.is_empty()) else {
        return refuse("its directory's parts do not fill it");
    };
    let issuers = issuers
        .chunks_exact(body::ISSUER)
        .map(decode_issuer)
        .collect::<Result<Vec<_>, _>>()?;
    body::sorted(&issuers, |issuer| issuer.id, "issuers")?;
    let mut held: Vec<ViewIssuer> = issuers.iter().map(ViewIssuer::new).collect();
    let mut last = None;
    for entry in segments.chunks_exact(SEGMENT) {
        let (issuer, bucket, segment) = decode_segment(map, entry)?;
        if last.replace((issuer, bucket)) >= Some((issuer, bucket)) {
            return refuse("its segments are not sorted");
        }
        let Some(held) = held.get_mut(issuer) else {
            return refuse("a segment names no issuer");
        };
        held.push(bucket, segment);
    }
    let exceptions = exceptions
        .chunks_exact(body::EXCEPTION)
        .map(|entry| decode_exception(entry, &issuers));
    let exceptions = exceptions.collect::<Result<Vec<_>, _>>()?;
    Ok((held, decode_rules(rules, rule_count)?, exceptions))
}

fn decode_segment(map: &Arc<ReadMap>, entry: &[u8]) -> Result<(usize, Bucket, Segment), RevocationError> {
    let mut fields = Fields::new(entry);
    let issuer = u32::from_le_bytes(fields.array()) as usize;
    let [span, kind, ..] = fields.array::<4>();
    let mut small = || u32::from_le_bytes(fields.array());
    let (index, blocks, lines, count) = (small(), small(), small(), small() as usize);
    let from = usize::try_from(fields.number()).unwrap_or(usize::MAX);
    let bucket = Bucket::from_wire(span, index);
    let (Some(bucket), Some(lines)) = (bucket, LineShape::from_parts(kind, lines)) else {
        return refuse("a segment's bucket or lines are unknown");
    };
    let shape = Shape { blocks, lines };
    let words = Words::of_map(map, from, shape.words());
    let Some(words) = words.filter(|_| blocks > 0 && from.is_multiple_of(LINE_WORDS)) else {
        return refuse("a segment goes beyond its end, or begins inside a line");
    };
    Ok((issuer, bucket, Segment::mapped(shape, words, count)))
}
