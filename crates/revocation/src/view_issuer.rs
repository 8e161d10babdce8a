//! One issuing key in a view, with its segments by bucket.

use std::sync::atomic::AtomicU64;

use mintage_identity::{IssuerKeyId, Serial, UnixTime};

use crate::{
    RevocationError, SerialKind,
    body::BodyIssuer,
    bucket::{Bucket, Span, Width},
    fingerprint::{fingerprint, plain},
    rice::Run,
    segment::{Add, Segment},
};

/// A new segment has room for one in so many more, so that the first delta after a snapshot need not make it anew.
const SPARE: usize = 64;

/// One issuing key with its segments, sorted by bucket.
#[derive(Clone)]
pub(crate) struct ViewIssuer {
    pub(crate) id: IssuerKeyId,
    pub(crate) covered: bool,
    pub(crate) kind: SerialKind,
    pub(crate) until: UnixTime,
    /// Every span that has a segment.
    spans: Vec<SpanRow>,
    /// Where to look for nearly every certificate, when it can be told by a few steps: the issuer is covered, its serials need no
    /// hash, and its segments are of one span without a gap.
    plain: Option<SpanRow>,
    /// [`Bucket::packed`] of each segment; sorted.
    buckets: Vec<u64>,
    segments: Vec<(Bucket, Segment)>,
}

impl ViewIssuer {
    pub(crate) fn new(from: &BodyIssuer) -> Self {
        Self {
            id: from.id,
            covered: from.covered,
            kind: from.kind,
            until: from.until,
            spans: Vec::new(),
            plain: None,
            buckets: Vec::new(),
            segments: Vec::new(),
        }
    }

    /// The issuer as the tables hold it.
    pub(crate) fn row(&self) -> BodyIssuer {
        BodyIssuer {
            id: self.id,
            covered: self.covered,
            kind: self.kind,
            until: self.until,
        }
    }

    /// The segments that a certificate with this end may be in, at most one of each span.
    #[inline(always)]
    fn candidates(&self, not_after: UnixTime) -> impl Iterator<Item = &Segment> {
        let millis = millis(not_after);
        self.spans.iter().filter_map(move |span| {
            let at = span.position(&self.buckets, millis)?;
            self.segments.get(at).map(|(_, segment)| segment)
        })
    }

    /// False when the filter does not know this serial of a covered issuer. `None` where that takes more than a look at one
    /// block.
    #[inline(always)]
    pub(crate) fn may_list(&self, serial: &Serial, not_after: UnixTime) -> Option<bool> {
        let span = self.plain.as_ref()?;
        let wanted = plain(SerialKind::Native, serial)?;
        let Some(at) = span.position_in_dense(millis(not_after)) else {
            return Some(false);
        };
        let (_, segment) = self.segments.get(at)?;
        Some(segment.may_contain(wanted))
    }

    /// True when the filter strikes this serial; hits that the lines refute are counted.
    #[inline(always)]
    pub(crate) fn lists(&self, serial: &Serial, not_after: UnixTime, refuted: &AtomicU64) -> bool {
        let wanted = fingerprint(self.kind, &self.id, serial);
        // A loop, which the compiler keeps in one piece with what asks.
        for segment in self.candidates(not_after) {
            if segment.contains_counted(wanted, refuted) {
                return true;
            }
        }
        false
    }

    /// True when the filter strikes this serial whatever its end. Slow: it looks at every segment.
    pub(crate) fn lists_anywhere(&self, serial: &Serial, refuted: &AtomicU64) -> bool {
        let wanted = fingerprint(self.kind, &self.id, serial);
        let mut segments = self.segments.iter();
        segments.any(|(_, segment)| segment.contains_counted(wanted, refuted))
    }

    /// Loads a word of each block that [`Self::lists`] would look at.
    #[inline(always)]
    pub(crate) fn touch(&self, serial: &Serial, not_after: UnixTime) -> u64 {
        let wanted = fingerprint(self.kind, &self.id, serial);
        let candidates = self.candidates(not_after);
        candidates.fold(0, |all, segment| all ^ segment.touch(wanted))
    }

    /// The segment of a bucket.
    pub(crate) fn segment_of(&self, bucket: Bucket) -> Option<&Segment> {
        let at = self.buckets.binary_search(&bucket.packed()).ok()?;
        self.segments.get(at).map(|(_, segment)| segment)
    }

    pub(crate) fn segments(&self) -> &[(Bucket, Segment)] {
        &self.segments
    }

    pub(crate) fn add(&mut self, bucket: Bucket, fingerprints: &[u64], how: Add) {
        match self.buckets.binary_search(&bucket.packed()) {
            Ok(at) => self.segments[at].1 = self.segments[at].1.with(fingerprints, how),
            Err(at) => self.put(at, bucket, Segment::build(fingerprints, fingerprints.len() / SPARE)),
        }
    }

    /// A new segment of a run, for [`Self::push`].
    pub(crate) fn read(run: Run<'_>) -> Result<Segment, RevocationError> {
        Segment::read(run, run.count() / SPARE)
    }

    fn put(&mut self, at: usize, bucket: Bucket, segment: Segment) {
        self.buckets.insert(at, bucket.packed());
        self.segments.insert(at, (bucket, segment));
    }

    /// Brings up what look-ups go by. Whoever puts or drops segments calls it once, afterwards: there may be thousands.
    pub(crate) fn index(&mut self) {
        let spans = Span::ALL.into_iter();
        self.spans = spans.filter_map(|span| SpanRow::of(span, &self.buckets)).collect();
        let only = match self.spans[..] {
            [] => Some(SpanRow::none()),
            [only] => Some(only).filter(|span| span.is_dense),
            _ => None,
        };
        self.plain = only.filter(|_| self.covered && self.kind == SerialKind::Native);
    }

    /// Adds a segment that sorts after all others.
    pub(crate) fn push(&mut self, bucket: Bucket, segment: Segment) {
        self.put(self.segments.len(), bucket, segment);
    }

    pub(crate) fn drop_dead(&mut self, horizon: UnixTime) {
        self.segments.retain(|(bucket, _)| !bucket.is_dead(horizon));
        self.buckets = self.segments.iter().map(|(bucket, _)| bucket.packed()).collect();
    }
}

/// The segments of one span among those of an issuer.
#[derive(Clone, Copy)]
struct SpanRow {
    width: Width,
    /// Number of the first bucket in its span.
    first: u64,
    /// Its position, and how many there are.
    at: usize,
    len: usize,
    /// True when their numbers have no gap.
    is_dense: bool,
}

/// Milliseconds since 1970, for the search of a bucket: what ended before shares the first.
#[inline(always)]
fn millis(not_after: UnixTime) -> u64 {
    u64::try_from(not_after.millis()).unwrap_or(0)
}

impl SpanRow {
    /// Of an issuer without segments.
    fn none() -> Self {
        Self {
            width: Width::of(Span::Minute),
            first: 0,
            at: 0,
            len: 0,
            is_dense: true,
        }
    }

    fn of(span: Span, buckets: &[u64]) -> Option<Self> {
        let begin = Bucket::packed_begin(span);
        let at = buckets.partition_point(|bucket| *bucket < begin);
        let held = &buckets[at..];
        let len = held.partition_point(|bucket| bucket - begin <= u64::from(u32::MAX));
        let (first, last) = (*held[..len].first()?, *held[..len].last()?);
        Some(Self {
            width: Width::of(span),
            first: first - begin,
            at,
            len,
            is_dense: last - first == len as u64 - 1,
        })
    }

    /// Where the segment is whose certificates end at `millis`.
    #[inline(always)]
    fn position(&self, buckets: &[u64], millis: u64) -> Option<usize> {
        if !self.is_dense {
            return among(buckets, self.width.packed(millis));
        }
        self.position_in_dense(millis)
    }

    #[inline(always)]
    fn position_in_dense(&self, millis: u64) -> Option<usize> {
        let off = self.width.index(millis).wrapping_sub(self.first);
        (off < self.len as u64).then(|| self.at + off as usize)
    }
}

#[inline(never)]
fn among(buckets: &[u64], wanted: u64) -> Option<usize> {
    buckets.binary_search(&wanted).ok()
}
