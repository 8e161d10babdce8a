//! Arguments from C: checked for null and length, then turned into types of ours.

use std::{
    ffi::{CStr, c_char},
    slice,
};

use mintage_identity::{
    IssuerKeyId, Serial, SpiffeId, SpkiHash, UnixTime,
    limits::{SERIAL_OCTETS_MAX, SPIFFE_ID_BYTES_MAX},
};
use mintage_revocation::{MapOwner, Query};

/// Mirrors `mintage_revocation_query` of the header.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MintageRevocationQuery {
    /// Size of the caller's structure.
    pub size: usize,
    /// 32 octets.
    pub issuer_key_id: *const u8,
    /// 1 to 21 octets, big endian.
    pub serial: *const u8,
    /// Octets of the serial.
    pub serial_len: usize,
    /// Milliseconds since 1970.
    pub not_before_ms: i64,
    /// Milliseconds since 1970.
    pub not_after_ms: i64,
    /// UTF-8, or null.
    pub spiffe_id: *const c_char,
    /// Octets of the SPIFFE ID.
    pub spiffe_id_len: usize,
    /// 32 octets.
    pub spki_sha256: *const u8,
}

/// A query with owned parts.
pub(crate) struct OwnedQuery {
    issuer: IssuerKeyId,
    serial: Serial,
    not_before: UnixTime,
    not_after: UnixTime,
    spiffe_id: Option<SpiffeId>,
    spki_sha256: SpkiHash,
}

impl OwnedQuery {
    pub(crate) fn as_query(&self) -> Query<'_> {
        Query {
            issuer: self.issuer,
            serial: &self.serial,
            not_before: self.not_before,
            not_after: self.not_after,
            spiffe_id: self.spiffe_id.as_ref(),
            spki_sha256: self.spki_sha256,
        }
    }
}

/// Reads a query; `None` when a part is missing or malformed.
///
/// # Safety
/// `query` is null or points to a query whose pointers are null or have their lengths, unchanged during the call.
pub(crate) unsafe fn query(query: *const MintageRevocationQuery) -> Option<OwnedQuery> {
    if query.is_null() || !query.is_aligned() {
        return None;
    }
    // SAFETY: aligned, and every version of the structure begins with its size.
    let size = unsafe { query.cast::<usize>().read() };
    if size < size_of::<MintageRevocationQuery>() {
        return None;
    }
    // SAFETY: aligned, and its own size says that all fields are there.
    let query = unsafe { query.read() };
    if !(1..=SERIAL_OCTETS_MAX + 1).contains(&query.serial_len) || query.spiffe_id_len > SPIFFE_ID_BYTES_MAX {
        return None;
    }
    // SAFETY: null, or 32 octets by the caller's promise.
    let issuer = unsafe { octets(query.issuer_key_id, 32) }?;
    // SAFETY: null, or `serial_len` octets by the caller's promise.
    let serial = unsafe { octets(query.serial, query.serial_len) }?;
    // SAFETY: null, or 32 octets by the caller's promise.
    let spki = unsafe { octets(query.spki_sha256, 32) }?;
    // SAFETY: null, or `spiffe_id_len` octets by the caller's promise.
    let spiffe_id = unsafe { octets(query.spiffe_id.cast(), query.spiffe_id_len) };
    let spiffe_id = match spiffe_id {
        Some(text) => Some(SpiffeId::parse(std::str::from_utf8(text).ok()?).ok()?),
        None => None,
    };
    Some(OwnedQuery {
        issuer: IssuerKeyId::from_slice(issuer).ok()?,
        serial: Serial::from_be_octets(serial).ok()?,
        not_before: UnixTime::from_millis(query.not_before_ms),
        not_after: UnixTime::from_millis(query.not_after_ms),
        spiffe_id,
        spki_sha256: SpkiHash::from_slice(spki).ok()?,
    })
}

/// Most queries of one batch: half a megabyte of pointers, answered in a few milliseconds.
const BATCH_MAX: usize = 65_536;

/// The pointers of a batch; `None` for null or more than [`BATCH_MAX`].
///
/// # Safety
/// `queries` is null or has `count` pointers that stay unchanged for `'a`.
pub(crate) unsafe fn list<'a>(
    queries: *const *const MintageRevocationQuery,
    count: usize,
) -> Option<&'a [*const MintageRevocationQuery]> {
    if queries.is_null() || !queries.is_aligned() || count > BATCH_MAX {
        return None;
    }
    // SAFETY: not null, aligned, and `count` pointers by the caller's promise.
    Some(unsafe { slice::from_raw_parts(queries, count) })
}

/// Whose map is believed; `None` for what is neither -1, -2 nor a user id.
pub(crate) fn owner(uid: i64) -> Option<MapOwner> {
    match uid {
        -1 => Some(MapOwner::RootOrSelf),
        -2 => Some(MapOwner::AnyByCopy),
        uid => u32::try_from(uid).ok().map(MapOwner::Uid),
    }
}

/// A terminated text; `None` for null or what is not UTF-8.
///
/// # Safety
/// `text` is null or terminated by a zero octet, and stays unchanged for `'a`.
pub(crate) unsafe fn text<'a>(text: *const c_char) -> Option<&'a str> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, and terminated by the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().ok()
}

/// # Safety
/// `start` is null or has `len` octets that stay unchanged for `'a`.
unsafe fn octets<'a>(start: *const u8, len: usize) -> Option<&'a [u8]> {
    if start.is_null() {
        return None;
    }
    // SAFETY: not null, and `len` octets by the caller's promise; every length here is far below `isize::MAX`.
    Some(unsafe { slice::from_raw_parts(start, len) })
}
