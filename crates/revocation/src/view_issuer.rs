//! One issuing key in a view, with its segments by bucket.

use std::sync::atomic::AtomicU64;

use mintage_identity::{IssuerKeyId, Serial, UnixTime};

use crate::{
    SerialKind,
    body::BodyIssuer,
    bucket::{Bucket, Span},
    fingerprint::fingerprint,
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
    /// [`Span::bit`] of every span that has a segment.
    spans: u8,
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
            spans: 0,
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

    #[inline]
    fn segment(&self, bucket: Bucket) -> Option<&Segment> {
        let at = match &self.buckets[..] {
            [only] => (*only == bucket.packed()).then_some(0)?,
            buckets => among(buckets, bucket.packed())?,
        };
        self.segments.get(at).map(|(_, segment)| segment)
    }

    #[inline]
    pub(crate) fn lists(&self, serial: &Serial, not_after: UnixTime, refuted: &AtomicU64) -> bool {
        let wanted = fingerprint(self.kind, &self.id, serial);
        // One after the other and not in a loop: each width is then a constant, and most issuers have one or two.
        self.lists_in(Span::Minute, wanted, not_after, refuted)
            || self.lists_in(Span::Hour, wanted, not_after, refuted)
            || self.lists_in(Span::Week, wanted, not_after, refuted)
            || self.lists_in(Span::Forever, wanted, not_after, refuted)
    }

    /// Loads a word of each block that [`Self::lists`] would look at.
    #[inline]
    pub(crate) fn touch(&self, serial: &Serial, not_after: UnixTime) -> u64 {
        let wanted = fingerprint(self.kind, &self.id, serial);
        let in_span = |span: Span| {
            let bucket = Bucket::containing(span, not_after.max(UnixTime::from_millis(0)))?;
            Some(self.segment(bucket)?.touch(wanted))
        };
        let spans = Span::ALL.into_iter().filter(|span| self.spans & span.bit() != 0);
        spans.filter_map(in_span).fold(0, |all, word| all ^ word)
    }

    #[inline(always)]
    fn lists_in(&self, span: Span, wanted: u64, not_after: UnixTime, refuted: &AtomicU64) -> bool {
        if self.spans & span.bit() == 0 {
            return false;
        }
        let bucket = Bucket::containing(span, not_after.max(UnixTime::from_millis(0)));
        let segment = bucket.and_then(|bucket| self.segment(bucket));
        segment.is_some_and(|segment| segment.contains_counted(wanted, refuted))
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

    fn put(&mut self, at: usize, bucket: Bucket, segment: Segment) {
        self.spans |= bucket.span().bit();
        self.buckets.insert(at, bucket.packed());
        self.segments.insert(at, (bucket, segment));
    }

    /// Adds a segment that sorts after all others.
    pub(crate) fn push(&mut self, bucket: Bucket, segment: Segment) {
        self.put(self.segments.len(), bucket, segment);
    }

    pub(crate) fn drop_dead(&mut self, horizon: UnixTime) {
        self.segments.retain(|(bucket, _)| !bucket.is_dead(horizon));
        self.buckets = self.segments.iter().map(|(bucket, _)| bucket.packed()).collect();
        self.spans = self
            .segments
            .iter()
            .fold(0, |spans, (bucket, _)| spans | bucket.span().bit());
    }
}

#[inline(never)]
fn among(buckets: &[u64], wanted: u64) -> Option<usize> {
    buckets.binary_search(&wanted).ok()
}
