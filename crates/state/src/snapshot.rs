//! Everything that stands after a number of records, as one file: what the ledger keeps in place of records that it gives up.
//! Revocations of what has long ended do not stand any more.
//!
//! ```text
//! "mintage state 01" | records applied u64 | control index u64 | trust domain | objects u64
//! object...             name | value, ordered by name, as the store holds them
//! digest                32 octets, of the view (View::digest)
//! ```
//! Numbers are little-endian; a text or name is its length as u32 and its octets. One state has one snapshot.

use std::collections::BTreeMap;

use mintage_identity::{TrustDomain, UnixTime};
use mintage_revocation::Revocation;

use crate::error::StateError;
use crate::key::Key;
use crate::load::view_of;
use crate::stored::{self, Fold};
use crate::sum::ContentSum;
use crate::view::View;

const MAGIC: &[u8; 16] = b"mintage state 01";

/// An object of the store: its name and its value.
pub(crate) type Object = (Vec<u8>, Vec<u8>);

/// Writes the objects of a view, which come ordered by name. Revocations that were dead at `at` are left out; where they led is
/// kept in their place, so that the revoked set stays the one that all records come to.
pub(crate) fn encode(view: &View, objects: Vec<Object>, at: UnixTime) -> Vec<u8> {
    let (objects, sum) = living(view, objects, at);
    let bytes: usize = objects.iter().map(|(name, value)| 8 + name.len() + value.len()).sum();
    let mut out = Vec::with_capacity(128 + bytes);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&view.applied().to_le_bytes());
    out.extend_from_slice(&view.control_head().to_le_bytes());
    put(&mut out, view.domain().as_str().as_bytes());
    out.extend_from_slice(&(objects.len() as u64).to_le_bytes());
    for (name, value) in &objects {
        put(&mut out, name);
        put(&mut out, value);
    }
    out.extend_from_slice(&view.digest_over(&sum));
    out
}

/// The objects without what is dead, and the sum over them, made from the view's own: objects that are not the view's would
/// come to another.
fn living(view: &View, mut objects: Vec<Object>, at: UnixTime) -> (Vec<Object>, ContentSum) {
    let mut sum = view.sum;
    let before = objects.len();
    objects.retain(|(name, value)| {
        let gone = match Key::from_bytes(name) {
            Some(Key::Base) => true,
            Some(Key::Fold(_)) => stored::fold_is_dead(value, at),
            _ => false,
        };
        if gone {
            sum.remove(name, value);
        }
        !gone
    });
    if objects.len() < before {
        let base = (Key::Base.to_bytes(), stored::base_bytes(&view.revoked));
        sum.add(&base.0, &base.1);
        let place = objects.partition_point(|(name, _)| *name < base.0);
        objects.insert(place, base);
    }
    (objects, sum)
}

fn put(out: &mut Vec<u8>, octets: &[u8]) {
    // Names and values come from records, which are at most 60 KB.
    out.extend_from_slice(&(octets.len() as u32).to_le_bytes());
    out.extend_from_slice(octets);
}

/// Reads a snapshot of a trust domain: the view, and the objects of its store.
pub(crate) fn decode(domain: &TrustDomain, bytes: &[u8]) -> Result<(View, Vec<Object>), StateError> {
    let unreadable = |why: &str| StateError::Snapshot(why.to_owned());
    let mut rest = Bytes(bytes);
    if rest.take(MAGIC.len()) != Some(MAGIC) {
        return Err(unreadable("it does not begin as this program writes it"));
    }
    let short = || unreadable("it is cut short");
    let applied = rest.u64().ok_or_else(short)?;
    let control_head = rest.u64().ok_or_else(short)?;
    if rest.text().ok_or_else(short)? != domain.as_str().as_bytes() {
        return Err(unreadable("it is of another trust domain"));
    }
    let count = rest.u64().ok_or_else(short)?;
    let mut objects: Vec<Object> = Vec::new();
    for _ in 0..count {
        let (name, value) = (rest.text().ok_or_else(short)?, rest.text().ok_or_else(short)?);
        if objects.last().is_some_and(|(before, _)| before.as_slice() >= name) {
            return Err(unreadable("its objects are not in order"));
        }
        objects.push((name.to_vec(), value.to_vec()));
    }
    let digest = rest.take(32).ok_or_else(short)?;
    if !rest.0.is_empty() {
        return Err(unreadable("it goes on after its end"));
    }
    let pairs = objects.iter().map(|(name, value)| (name, value));
    let view = view_of(domain, (applied, control_head), pairs)
        .map_err(|why| StateError::Snapshot(format!("it holds {why}")))?;
    match view.digest() == digest {
        true => Ok((view, objects)),
        false => Err(unreadable("its content is not the one its digest is of")),
    }
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let len = self.take(4)?.try_into().ok().map(u32::from_le_bytes)?;
        self.take(len as usize)
    }
}

impl View {
    /// The view that a snapshot holds.
    ///
    /// # Errors
    /// Refuses bytes that are no snapshot of this trust domain, and one whose content is not that of its digest.
    pub fn from_snapshot(domain: &TrustDomain, bytes: &[u8]) -> Result<Self, StateError> {
        decode(domain, bytes).map(|(view, _)| view)
    }

    /// As [`View::from_snapshot`], with every revocation that the snapshot holds, by the index of its record.
    ///
    /// # Errors
    /// As [`View::from_snapshot`].
    pub fn from_snapshot_with_revocations(
        domain: &TrustDomain,
        bytes: &[u8],
    ) -> Result<(Self, BTreeMap<u64, Revocation>), StateError> {
        let (view, objects) = decode(domain, bytes)?;
        let revocation = |(name, value): &Object| match (Key::from_bytes(name), stored::fold(value)) {
            (Some(Key::Fold(index)), Ok(Fold::Revoke(_, revocation))) => Some((index, revocation)),
            _ => None,
        };
        let revocations = objects.iter().filter_map(revocation).collect();
        Ok((view, revocations))
    }
}
