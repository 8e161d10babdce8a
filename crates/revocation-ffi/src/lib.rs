//! C ABI over the node's revocation map: open, check, check batch, last update, close. The contract is `include/mintage_revocation.h`.
//!
//! Every function is safe against null and against a panic inside, which becomes an error code; nothing unwinds into C.

mod argument;
mod call;

use std::{
    ffi::{c_char, c_int},
    ptr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mintage_identity::UnixTime;
use mintage_revocation::{Decision, FreshnessPolicy, MapReader, Query, Verdict};

pub use argument::MintageRevocationQuery;
use call::{guarded, write_error};

/// Not revoked; also the result of an open that succeeded.
pub const GOOD: c_int = 0;
/// Revoked, by its serial or by a rule.
pub const REVOKED: c_int = 1;
/// Not known to be revoked, but the filter is too old, or there is none yet.
pub const STALE: c_int = 2;
/// The filter does not speak of this issuer, or of certificates that ended this long ago.
pub const NOT_COVERED: c_int = 3;
/// A null pointer, a wrong length, a text that is no SPIFFE ID.
pub const INVALID: c_int = -1;
/// The map cannot be read, or is not one to be trusted.
pub const REFUSED: c_int = -2;
/// A fault of this library.
pub const INTERNAL: c_int = -3;

/// Queries that are turned into ours at a time.
const BATCH: usize = 32;

/// An open map; C sees a pointer to it only.
pub struct MintageRevocation {
    reader: MapReader,
}

/// Opens a map; see the header.
///
/// # Safety
/// `path` and `trust_domain` are null or terminated by a zero octet; `out` is null or may be written to; `error` is null
/// or has `error_len` octets that may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mintage_revocation_open(
    path: *const c_char,
    trust_domain: *const c_char,
    owner_uid: i64,
    out: *mut *mut MintageRevocation,
    error: *mut c_char,
    error_len: usize,
) -> c_int {
    if out.is_null() {
        return INVALID;
    }
    // SAFETY: not null, and the caller lets us write there.
    unsafe { out.write(ptr::null_mut()) };
    let opened = guarded(|| {
        // SAFETY: the caller promises null or a terminated text that stays for this call.
        let path = unsafe { argument::text(path) };
        // SAFETY: as for `path`.
        let trust_domain = unsafe { argument::text(trust_domain) };
        open(path, trust_domain, owner_uid)
    });
    let (code, problem) = match opened {
        Some(Ok(map)) => {
            let handle = Box::into_raw(Box::new(map));
            // SAFETY: not null, and the caller lets us write there.
            unsafe { out.write(handle) };
            return GOOD;
        }
        Some(Err(refusal)) => refusal,
        None => (INTERNAL, "a fault of the library".to_owned()),
    };
    // SAFETY: the caller promises null or `error_len` octets that may be written to.
    unsafe { write_error(&problem, error, error_len) };
    code
}

/// Answers for one certificate; see the header.
///
/// # Safety
/// `map` is null or a handle that is open; `query` is null or points to a query whose pointers have their lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mintage_revocation_check(
    map: *const MintageRevocation,
    query: *const MintageRevocationQuery,
    max_age_s: u32,
) -> c_int {
    let answer = guarded(|| {
        // SAFETY: the caller promises null or an open handle, which only `close` ends.
        let map = unsafe { map.as_ref() }?;
        // SAFETY: the caller promises null or a query that stays unchanged for this call.
        let query = unsafe { argument::query(query) }?;
        let now = now();
        Some(map.reader.view(now).decide(&query.as_query(), now, policy(max_age_s)))
    });
    match answer {
        None => INTERNAL,
        Some(None) => INVALID,
        Some(Some(decision)) => code_of(decision),
    }
}

/// Answers for many certificates; see the header.
///
/// # Safety
/// `map` is null or a handle that is open; `queries` is null or `count` pointers as `mintage_revocation_check` takes them;
/// `results` is null or has room for `count` results.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mintage_revocation_check_batch(
    map: *const MintageRevocation,
    queries: *const *const MintageRevocationQuery,
    count: usize,
    max_age_s: u32,
    results: *mut c_int,
) -> c_int {
    let answered = guarded(|| {
        // SAFETY: the caller promises null or an open handle, which only `close` ends.
        let map = unsafe { map.as_ref() }?;
        // SAFETY: the caller promises null or `count` pointers that stay unchanged for this call.
        let queries = unsafe { argument::list(queries, count) }?;
        if results.is_null() {
            return None;
        }
        let (now, policy) = (now(), policy(max_age_s));
        let view = map.reader.view(now);
        for (group, pointers) in queries.chunks(BATCH).enumerate() {
            // SAFETY: the caller promises null or queries that stay unchanged for this call.
            let owned: Vec<_> = pointers
                .iter()
                .map(|query| unsafe { argument::query(*query) })
                .collect();
            let asked: Vec<Query<'_>> = owned.iter().flatten().map(argument::OwnedQuery::as_query).collect();
            let mut decisions = [Decision::Refuse(Verdict::Stale); BATCH];
            view.decide_batch(&asked, now, policy, &mut decisions);
            let mut answers = decisions.into_iter().map(code_of);
            for (at, query) in owned.iter().enumerate() {
                let answer = query.as_ref().and_then(|_| answers.next()).unwrap_or(INVALID);
                // SAFETY: not null, and the caller promises room for `count` results.
                unsafe { results.wrapping_add(group * BATCH + at).write(answer) };
            }
        }
        Some(GOOD)
    });
    answered.map_or(INTERNAL, |done| done.unwrap_or(INVALID))
}

fn policy(max_age_s: u32) -> FreshnessPolicy {
    match max_age_s {
        0 => FreshnessPolicy::Strict,
        seconds => FreshnessPolicy::Bounded {
            max_age: Duration::from_secs(u64::from(seconds)),
        },
    }
}

fn code_of(decision: Decision) -> c_int {
    match decision {
        Decision::Accept { .. } => GOOD,
        Decision::Refuse(Verdict::Revoked { .. }) => REVOKED,
        Decision::Refuse(Verdict::NotCovered) => NOT_COVERED,
        Decision::Refuse(Verdict::Good | Verdict::Stale) => STALE,
    }
}

/// Time of the last heartbeat in milliseconds; see the header.
///
/// # Safety
/// `map` is null or a handle that is open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mintage_revocation_last_update(map: *const MintageRevocation) -> i64 {
    let answer = guarded(|| {
        // SAFETY: the caller promises null or an open handle, which only `close` ends.
        let map = unsafe { map.as_ref() }?;
        // Here and not in a check, which makes no system call.
        map.reader.let_go_if_cut();
        Some(map.reader.last_update(now()).map_or(0, |at| at.millis().max(0)))
    });
    answer.map_or(i64::from(INTERNAL), |at| at.unwrap_or(i64::from(INVALID)))
}

/// Closes a handle; null is ignored.
///
/// # Safety
/// `map` is null or a handle that is open, is closed once, and is in use nowhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mintage_revocation_close(map: *mut MintageRevocation) {
    if map.is_null() {
        return;
    }
    guarded(|| {
        // SAFETY: the handle came from `Box::into_raw` in `open`, and the caller gives it back once.
        drop(unsafe { Box::from_raw(map) });
    });
}

fn open(path: Option<&str>, trust_domain: Option<&str>, owner_uid: i64) -> Result<MintageRevocation, (c_int, String)> {
    let (Some(path), Some(trust_domain)) = (path, trust_domain) else {
        return Err((INVALID, "path or trust domain is null or not UTF-8".to_owned()));
    };
    let trust_domain = trust_domain.parse().map_err(|error| (INVALID, format!("{error}")))?;
    let owner = argument::owner(owner_uid).ok_or_else(|| (INVALID, format!("owner {owner_uid} is no user id")))?;
    let reader = MapReader::open(path.as_ref(), &trust_domain, owner).map_err(|error| (REFUSED, error.to_string()))?;
    Ok(MintageRevocation { reader })
}

/// The library is a shell: it may read the clock.
fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixTime::from_millis(0).plus(since)
}
