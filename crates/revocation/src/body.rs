//! The body of snapshot and delta: tables of issuers, segments and exceptions, then rules, then the coded serials.
//!
//! One content has one encoding: every table is sorted, every gap is zero, and the parts fill the body exactly.

use mintage_identity::{IdPrefix, IssuerKeyId, Serial, SpiffeId, SpkiHash, UnixTime};

use crate::{
    Exception, RevocationError, Rule, RuleTarget, SerialKind,
    bucket::Bucket,
    limits::{EXCEPTIONS_MAX, ISSUERS_MAX, RULE_SUBJECT_BYTES_MAX, RULES_MAX, SEGMENTS_MAX, SERIALS_MAX},
    octets::Fields,
    rice::{self, Run},
};

const WHAT: &str = "body";
const HEAD: usize = 64;
pub(crate) const ISSUER: usize = 64;
const SEGMENT: usize = 32;
pub(crate) const EXCEPTION: usize = 32;
const RULE_HEAD: usize = 16;
const COVERED: u8 = 1;
const FOREIGN: u8 = 2;
const HAS_CUT: u8 = 1;

/// An issuing key of the set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BodyIssuer {
    pub(crate) id: IssuerKeyId,
    /// False: only strikes are known, its other certificates are not covered.
    pub(crate) covered: bool,
    pub(crate) kind: SerialKind,
    /// When its last certificate has ended; the largest instant when that is not known.
    pub(crate) until: UnixTime,
}

/// Revoked serials of one issuer in one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BodySegment {
    /// Position in the issuer table.
    pub(crate) issuer: usize,
    pub(crate) bucket: Bucket,
    /// Strictly increasing.
    pub(crate) fingerprints: Vec<u64>,
}

/// Where a segment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Position in the issuer table.
    pub(crate) issuer: usize,
    pub(crate) bucket: Bucket,
}

/// What a snapshot holds, or a delta adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Body {
    /// Sorted by key id.
    pub(crate) issuers: Vec<BodyIssuer>,
    /// Sorted by issuer and bucket.
    pub(crate) segments: Vec<BodySegment>,
    /// Sorted by target.
    pub(crate) rules: Vec<Rule>,
    /// Sorted; in a delta too this is the whole list, which takes the former's place.
    pub(crate) exceptions: Vec<Exception>,
}

impl Body {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, RevocationError> {
        let rules = encode_rules(&self.rules);
        let mut codes = Vec::new();
        let mut segments = Vec::with_capacity(self.segments.len() * SEGMENT);
        for segment in &self.segments {
            let (before, count) = (codes.len(), segment.fingerprints.len());
            let parameter = rice::parameter_for(count);
            rice::encode(&segment.fingerprints, parameter, &mut codes);
            segments.extend_from_slice(&small(segment.issuer)?.to_le_bytes());
            segments.extend_from_slice(&[segment.bucket.span() as u8, parameter, 0, 0]);
            segments.extend_from_slice(&segment.bucket.index().to_le_bytes());
            segments.extend_from_slice(&small(count)?.to_le_bytes());
            segments.extend_from_slice(&((codes.len() - before) as u64).to_le_bytes());
            segments.extend_from_slice(&[0; 8]);
        }
        let mut out =
            Vec::with_capacity(HEAD + self.issuers.len() * ISSUER + segments.len() + rules.len() + codes.len());
        for count in [
            self.issuers.len(),
            self.segments.len(),
            self.rules.len(),
            self.exceptions.len(),
        ] {
            out.extend_from_slice(&small(count)?.to_le_bytes());
        }
        out.extend_from_slice(&(rules.len() as u64).to_le_bytes());
        out.extend_from_slice(&(codes.len() as u64).to_le_bytes());
        out.resize(HEAD, 0);
        for issuer in &self.issuers {
            encode_issuer(issuer, &mut out);
        }
        out.extend_from_slice(&segments);
        for exception in &self.exceptions {
            encode_exception(exception, &self.issuers, &mut out)?;
        }
        out.extend_from_slice(&rules);
        out.extend_from_slice(&codes);
        Ok(out)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, RevocationError> {
        let mut segments = Vec::new();
        let mut body = Self::decode_with(bytes, |place, run| {
            segments.push(BodySegment {
                issuer: place.issuer,
                bucket: place.bucket,
                fingerprints: run.read()?,
            });
            Ok(())
        })?;
        body.segments = segments;
        Ok(body)
    }

    /// As [`Self::decode`], but the segments are handed to `take`, one after the other, and not kept: a large one is read
    /// straight to where it belongs. What was taken is to be forgotten when an error follows.
    pub(crate) fn decode_with(
        bytes: &[u8],
        take: impl FnMut(Place, Run<'_>) -> Result<(), RevocationError>,
    ) -> Result<Self, RevocationError> {
        let tables = Tables::split(bytes)?;
        let issuers = tables
            .issuers
            .chunks_exact(ISSUER)
            .map(decode_issuer)
            .collect::<Result<Vec<_>, _>>()?;
        sorted(&issuers, |issuer| issuer.id, "issuers")?;
        decode_segments(tables.segments, tables.codes, issuers.len(), take)?;
        let exceptions = tables
            .exceptions
            .chunks_exact(EXCEPTION)
            .map(|entry| decode_exception(entry, &issuers));
        let exceptions = exceptions.collect::<Result<Vec<_>, _>>()?;
        sorted(&exceptions, |exception| exception.clone(), "exceptions")?;
        let rules = decode_rules(tables.rules, tables.rule_count)?;
        sorted(&rules, |rule| rule.target.clone(), "rules")?;
        Ok(Self {
            issuers,
            segments: Vec::new(),
            rules,
            exceptions,
        })
    }
}

/// A count that the tables write in 32 bits.
pub(crate) fn small(count: usize) -> Result<u32, RevocationError> {
    let too_many = |_| RevocationError::TooMany {
        what: "a count",
        limit: SERIALS_MAX,
        found: count,
    };
    u32::try_from(count).map_err(too_many)
}

fn refuse<T>(problem: impl Into<String>) -> Result<T, RevocationError> {
    Err(RevocationError::malformed(WHAT, problem))
}

pub(crate) fn sorted<T, K: Ord>(items: &[T], key: impl Fn(&T) -> K, name: &str) -> Result<(), RevocationError> {
    if items.windows(2).all(|pair| key(&pair[0]) < key(&pair[1])) {
        return Ok(());
    }
    refuse(format!("its {name} are not sorted, or one is there twice"))
}

/// The parts of a body, cut by the counts in its head after these were checked against limits and length.
struct Tables<'a> {
    issuers: &'a [u8],
    segments: &'a [u8],
    exceptions: &'a [u8],
    rules: &'a [u8],
    rule_count: usize,
    codes: &'a [u8],
}

impl<'a> Tables<'a> {
    fn split(bytes: &'a [u8]) -> Result<Self, RevocationError> {
        let Some((head, mut rest)) = bytes.split_at_checked(HEAD) else {
            return refuse("it has no room for its head");
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
        let (rules_len, codes_len) = (fields.number(), fields.number());
        if fields.array() != [0; 32] {
            return refuse("reserved octets of its head are not zero");
        }
        let mut cut = |len: u64| {
            let (part, later) = rest.split_at_checked(usize::try_from(len).ok()?)?;
            rest = later;
            Some(part)
        };
        let parts = (|| {
            Some(Self {
                issuers: cut((issuers * ISSUER) as u64)?,
                segments: cut((segments * SEGMENT) as u64)?,
                exceptions: cut((exceptions * EXCEPTION) as u64)?,
                rules: cut(rules_len)?,
                rule_count,
                codes: cut(codes_len)?,
            })
        })();
        match parts {
            Some(tables) if rest.is_empty() => Ok(tables),
            Some(_) => refuse("octets follow its last part"),
            None => refuse("a part goes beyond its end"),
        }
    }
}

pub(crate) fn encode_issuer(issuer: &BodyIssuer, out: &mut Vec<u8>) {
    out.extend_from_slice(issuer.id.as_bytes());
    let covered = if issuer.covered { COVERED } else { 0 };
    let foreign = if issuer.kind == SerialKind::Foreign { FOREIGN } else { 0 };
    out.extend_from_slice(&[covered | foreign, 0, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&issuer.until.millis().to_le_bytes());
    out.extend_from_slice(&[0; 16]);
}

pub(crate) fn decode_issuer(entry: &[u8]) -> Result<BodyIssuer, RevocationError> {
    let mut fields = Fields::new(entry);
    let id = IssuerKeyId::new(fields.array());
    let [flags, zeros @ ..] = fields.array::<8>();
    let until = fields.time();
    if flags & !(COVERED | FOREIGN) != 0 || zeros != [0; 7] || fields.array() != [0; 16] {
        return refuse("an issuer has a flag that this version does not know");
    }
    let kind = if flags & FOREIGN == 0 {
        SerialKind::Native
    } else {
        SerialKind::Foreign
    };
    Ok(BodyIssuer {
        id,
        covered: flags & COVERED != 0,
        kind,
        until,
    })
}

fn decode_segments(
    table: &[u8],
    mut codes: &[u8],
    issuers: usize,
    mut take: impl FnMut(Place, Run<'_>) -> Result<(), RevocationError>,
) -> Result<(), RevocationError> {
    let (mut serials, mut former) = (0, None);
    for entry in table.chunks_exact(SEGMENT) {
        let mut fields = Fields::new(entry);
        let issuer = u32::from_le_bytes(fields.array()) as usize;
        let [span, parameter, zeros @ ..] = fields.array::<4>();
        let index = u32::from_le_bytes(fields.array());
        let count = u32::from_le_bytes(fields.array()) as usize;
        let code_len = fields.number();
        if zeros != [0; 2] || fields.array() != [0; 8] || issuer >= issuers || count == 0 {
            return refuse("a segment names no issuer of the table, or is empty");
        }
        let Some(bucket) = Bucket::from_wire(span, index) else {
            return refuse("a segment's bucket is unknown");
        };
        serials += count;
        if serials > SERIALS_MAX {
            return Err(RevocationError::TooMany {
                what: "serials",
                limit: SERIALS_MAX,
                found: serials,
            });
        }
        let cut = usize::try_from(code_len)
            .ok()
            .and_then(|len| codes.split_at_checked(len));
        let Some((code, later)) = cut else {
            return refuse("a segment goes beyond the end");
        };
        codes = later;
        let place = Place { issuer, bucket };
        if former.is_some_and(|former| former >= place) {
            return refuse("its segments are not sorted, or one is there twice");
        }
        former = Some(place);
        take(place, Run::new(code, count, parameter)?)?;
    }
    if codes.is_empty() {
        Ok(())
    } else {
        refuse("octets follow its last segment")
    }
}

pub(crate) fn encode_exception(
    exception: &Exception,
    issuers: &[BodyIssuer],
    out: &mut Vec<u8>,
) -> Result<(), RevocationError> {
    let at = issuers.binary_search_by(|issuer| issuer.id.cmp(&exception.issuer));
    let at = at.map_err(|_| RevocationError::malformed(WHAT, "an exception's issuer is not in the set"))?;
    out.extend_from_slice(&small(at)?.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(exception.serial.padded());
    Ok(())
}

pub(crate) fn decode_exception(entry: &[u8], issuers: &[BodyIssuer]) -> Result<Exception, RevocationError> {
    let mut fields = Fields::new(entry);
    let issuer = u32::from_le_bytes(fields.array()) as usize;
    let zeros: [u8; 8] = fields.array();
    let serial = Serial::from_be_octets(&fields.array::<20>());
    match (issuers.get(issuer), serial) {
        (Some(issuer), Ok(serial)) if zeros == [0; 8] => Ok(Exception {
            issuer: issuer.id,
            serial,
        }),
        _ => refuse("an exception names no issuer of the table, or no serial"),
    }
}

/// A rule: kind, flags, length of its subject, cut, subject padded to 8 octets.
pub(crate) fn encode_rules(rules: &[Rule]) -> Vec<u8> {
    let mut out = Vec::new();
    for rule in rules {
        let (kind, subject) = subject_of(&rule.target);
        let flags = if rule.cut.is_some() { HAS_CUT } else { 0 };
        // A subject has at most 2,050 octets.
        let len = (subject.len() as u16).to_le_bytes();
        out.extend_from_slice(&[kind, flags, len[0], len[1], 0, 0, 0, 0]);
        out.extend_from_slice(&rule.cut.unwrap_or_default().millis().to_le_bytes());
        out.extend_from_slice(&subject);
        out.resize(out.len().next_multiple_of(8), 0);
    }
    out
}

/// The target's wire kind and octets.
pub(crate) fn subject_of(target: &RuleTarget) -> (u8, Vec<u8>) {
    match target {
        RuleTarget::Identity(id) => (1, id.as_str().into()),
        RuleTarget::Prefix(prefix) => (2, prefix.to_string().into()),
        RuleTarget::Key(key) => (3, key.as_bytes().into()),
        RuleTarget::Issuer(issuer) => (4, issuer.as_bytes().into()),
    }
}

pub(crate) fn decode_rules(mut area: &[u8], count: usize) -> Result<Vec<Rule>, RevocationError> {
    // Every rule has its head: the count is checked before it is believed.
    if count > area.len() / RULE_HEAD {
        return refuse("it counts more rules than its octets can hold");
    }
    let mut rules = Vec::with_capacity(count);
    for _ in 0..count {
        let Some((head, rest)) = area.split_at_checked(RULE_HEAD) else {
            return refuse("a rule goes beyond the end");
        };
        let mut fields = Fields::new(head);
        let [kind, flags] = fields.array();
        let len = usize::from(u16::from_le_bytes(fields.array()));
        let zeros: [u8; 4] = fields.array();
        let cut = fields.time();
        let Some((padded, later)) = rest.split_at_checked(len.next_multiple_of(8)) else {
            return refuse("a rule goes beyond the end");
        };
        let (subject, padding) = padded.split_at(len);
        let has_cut = flags & HAS_CUT != 0;
        let clean = flags & !HAS_CUT == 0 && zeros == [0; 4] && padding.iter().all(|&o| o == 0);
        if !clean || len > RULE_SUBJECT_BYTES_MAX || (!has_cut && cut.millis() != 0) {
            return refuse("a rule has a flag that this version does not know, or a wrong length");
        }
        let Some(target) = target_of(kind, subject) else {
            return refuse("a rule's subject is unknown or not valid");
        };
        rules.push(Rule {
            target,
            cut: has_cut.then_some(cut),
        });
        area = later;
    }
    if area.is_empty() {
        Ok(rules)
    } else {
        refuse("octets follow its last rule")
    }
}

fn target_of(kind: u8, subject: &[u8]) -> Option<RuleTarget> {
    let text = || std::str::from_utf8(subject).ok();
    match kind {
        1 => SpiffeId::parse(text()?).ok().map(RuleTarget::Identity),
        2 => IdPrefix::parse(text()?).ok().map(RuleTarget::Prefix),
        3 => SpkiHash::from_slice(subject).ok().map(RuleTarget::Key),
        4 => IssuerKeyId::from_slice(subject).ok().map(RuleTarget::Issuer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Body {
        let issuer = |octet, covered, kind| BodyIssuer {
            id: IssuerKeyId::new([octet; 32]),
            covered,
            kind,
            until: UnixTime::from_millis(i64::MAX),
        };
        let id = |text: &str| SpiffeId::parse(text).unwrap();
        let rule = |target, cut: Option<i64>| Rule {
            target,
            cut: cut.map(UnixTime::from_millis),
        };
        Body {
            issuers: vec![
                issuer(1, true, SerialKind::Native),
                issuer(2, false, SerialKind::Foreign),
            ],
            segments: vec![
                BodySegment {
                    issuer: 0,
                    bucket: Bucket::FIRST,
                    fingerprints: vec![0, 5, 1 << 47],
                },
                BodySegment {
                    issuer: 1,
                    bucket: Bucket::FOREVER,
                    fingerprints: (0..500).map(|n| n * 77_777).collect(),
                },
            ],
            rules: vec![
                rule(RuleTarget::Identity(id("spiffe://td/web")), Some(-5)),
                rule(RuleTarget::Prefix("spiffe://td/a/*".parse().unwrap()), None),
                rule(RuleTarget::Key(SpkiHash::new([3; 32])), Some(7)),
                rule(RuleTarget::Issuer(IssuerKeyId::new([4; 32])), None),
            ],
            exceptions: vec![Exception {
                issuer: IssuerKeyId::new([1; 32]),
                serial: Serial::from_random([9; 16]),
            }],
        }
    }

    #[test]
    fn a_body_round_trips_and_has_one_encoding() {
        for body in [sample(), Body::default()] {
            let bytes = body.encode().unwrap();
            let read = Body::decode(&bytes).unwrap();
            assert_eq!(read, body);
            assert_eq!(read.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn unsorted_and_doubled_tables_are_refused() {
        let refused = |change: fn(&mut Body)| {
            let mut body = sample();
            change(&mut body);
            assert!(Body::decode(&body.encode().unwrap()).is_err());
        };
        refused(|body| body.segments.swap(0, 1));
        refused(|body| body.segments[1] = body.segments[0].clone());
        refused(|body| body.segments[0].fingerprints.clear());
        refused(|body| body.rules.swap(0, 3));
        refused(|body| body.rules[1] = body.rules[0].clone());
        refused(|body| body.exceptions.push(body.exceptions[0].clone()));
        refused(|body| body.issuers[1] = body.issuers[0].clone());
        let mut body = sample();
        body.exceptions[0].issuer = IssuerKeyId::new([8; 32]);
        assert!(body.encode().is_err());
    }

    #[test]
    fn lengths_and_counts_of_four_gigabytes_are_refused_before_allocation() {
        let bytes = sample().encode().unwrap();
        // Counts of issuers, segments, rules, exceptions; lengths of rules and codes.
        for (at, width) in [(0, 4), (4, 4), (8, 4), (12, 4), (16, 8), (24, 8)] {
            for value in [u64::MAX, 4 << 30, 0xffff_fff0, 1 << 31] {
                let mut bad = bytes.clone();
                bad[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
                if bad != bytes {
                    assert!(Body::decode(&bad).is_err(), "{at} {value}");
                }
            }
        }
        // A segment's count and length.
        let segment = HEAD + 2 * ISSUER;
        for (at, width) in [(segment, 4), (segment + 12, 4), (segment + 16, 8)] {
            let mut bad = bytes.clone();
            bad[at..at + width].fill(0xff);
            assert!(Body::decode(&bad).is_err(), "{at}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn damaged_bodies_are_read_or_refused_but_never_panic(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = sample().encode().unwrap();
            for (at, value) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            if let Ok(body) = Body::decode(&bytes) {
                // What is read is canonical but for the Rice parameter, which a writer may choose.
                prop_assert_eq!(Body::decode(&body.encode().unwrap()).unwrap(), body);
            }
            prop_assert!(Body::decode(&bytes[..cut.index(bytes.len())]).is_err());
        }

        #[test]
        fn arbitrary_octets_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Body::decode(&bytes);
        }
    }
}
