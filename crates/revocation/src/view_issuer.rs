//! One issuing key in a view, with its segments by bucket.

use std::sync::atomic::AtomicU64;

use mintage_identity::{IssuerKeyId, Serial, UnixTime};

use crate::{
    RevocationError, SerialKind,
    body::BodyIssuer,
    bucket::Bucket,
    fingerprint::fingerprint,
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

    /// True when the filter strikes this serial; hits that the lines refute are counted.
    pub(crate) fn lists(&self, serial: &Serial, not_after: UnixTime, refuted: &AtomicU64) -> bool {
        let wanted = fingerprint(self.kind, &self.id, serial);
        let held = Bucket::all_for(not_after).filter_map(|bucket| self.segment_of(bucket));
        let mut struck = held.filter(|segment| segment.contains_counted(wanted, refuted));
        struck.next().is_some()
    }

    /// True when the filter strikes this serial whatever its end. Slow: it looks at every segment.
    pub(crate) fn lists_anywhere(&self, serial: &Serial, refuted: &AtomicU64) -> bool {
        let wanted = fingerprint(self.kind, &self.id, serial);
        let mut segments = self.segments.iter();
        segments.any(|(_, segment)| segment.contains_counted(wanted, refuted))
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

    /// Adds a segment that sorts after all others.
    pub(crate) fn push(&mut self, bucket: Bucket, segment: Segment) {
        self.put(self.segments.len(), bucket, segment);
    }

    pub(crate) fn drop_dead(&mut self, horizon: UnixTime) {
        self.segments.retain(|(bucket, _)| !bucket.is_dead(horizon));
        self.buckets = self.segments.iter().map(|(bucket, _)| bucket.packed()).collect();
    }
}
