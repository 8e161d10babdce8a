//! What the agent keeps: its directory, its own certificate, the trust bundle, and the revocation map.

use std::{fs, path::Path, time::Duration};

use mintage_identity::UnixTime;
use mintage_revocation::{Freshness, FreshnessPolicy, MapOwner, MapReader};
use mintage_svid::CertInfo;
use mintage_sys::process::effective_uid;

use super::{
    Kept,
    notes::{Notes, span},
};
use crate::{AgentError, Config, shared::Own, store::Store};

/// A root that ends within this time needs a look: the CA's own warning comes half a year before.
const ROOT_WARNS: Duration = Duration::from_secs(14 * 86_400);
pub(super) const RUN_IT: &str =
    "start the agent: mintage-agent run --config FILE, the first time with --join-token-file FILE";

/// Opens what was kept; `None` when nothing can be read.
pub(super) fn data_dir(notes: &mut Notes, path: &Path) -> Option<Kept> {
    use std::os::unix::fs::MetadataExt;
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            notes.warn("data_dir", format!("{} is not there yet", path.display()), RUN_IT);
            return None;
        }
        Err(error) => {
            notes.fail(
                "data_dir",
                format!("{}: {error}", path.display()),
                "run as the agent's user",
            );
            return None;
        }
    };
    let us = effective_uid();
    if meta.is_dir() && meta.uid() != us {
        let owner = meta.uid();
        notes.fail(
            "data_dir",
            format!("{} belongs to uid {owner}, and we are uid {us}", path.display()),
            &format!("run as the agent's user: sudo -u '#{owner}' mintage-agent doctor; or chown it"),
        );
        return None;
    }
    let kept = Store::look(path).and_then(|store| {
        Ok(Kept {
            membership: store.membership()?,
            bundle: store.bundle()?,
            store,
        })
    });
    match kept {
        Ok(kept) => {
            match meta.mode() & 0o077 {
                0 => notes.ok("data_dir", format!("{} is ours alone", path.display())),
                _ => notes.warn(
                    "data_dir",
                    format!(
                        "{} may be looked into by others (mode {:04o})",
                        path.display(),
                        meta.mode() & 0o7777
                    ),
                    "chmod 0700 it",
                ),
            }
            Some(kept)
        }
        Err(error) => {
            let advice = match &error {
                AgentError::State { .. } => RUN_IT,
                _ => "mend what is said of it",
            };
            notes.fail("data_dir", error.to_string(), advice);
            None
        }
    }
}

/// The agent's certificate and the bundle; times that the CA signed.
pub(super) fn identity(notes: &mut Notes, kept: &Kept, now: UnixTime) -> Vec<UnixTime> {
    let mut signed = Vec::new();
    let own = kept.store.agent().map_err(|error| error.to_string());
    match own.and_then(|pair| pair.map(Own::new).transpose()) {
        Ok(None) => notes.warn("certificate", "this agent has not joined".to_owned(), RUN_IT),
        Err(problem) => notes.fail(
            "certificate",
            problem,
            "join again with a new token: mintage token create",
        ),
        Ok(Some(own)) => {
            signed.push(own.leaf.not_before());
            own_certificate(notes, &own, now);
        }
    }
    if let Some(bundle) = &kept.bundle {
        let ends = bundle
            .roots()
            .iter()
            .filter_map(|der| CertInfo::parse_signing(der).ok());
        roots(notes, bundle.sequence(), ends.map(|root| root.not_after()).min(), now);
    }
    signed
}

fn own_certificate(notes: &mut Notes, own: &Own, now: UnixTime) {
    let (from, to) = (own.leaf.not_before(), own.leaf.not_after());
    let (left, life) = (to.since(now), to.since(from));
    let id = own.leaf.id();
    if now > to {
        notes.fail(
            "certificate",
            format!("{id} has ended {} ago", span(now.since(to))),
            "an agent that runs joins again by its last key for seven days; later it needs a new token",
        );
    } else if left < life * 2 / 5 {
        notes.warn(
            "certificate",
            format!("{id} ends in {}, and was due for renewal", span(left)),
            "see why the agent does not renew it: its log, and the lines about the CA here",
        );
    } else {
        notes.ok(
            "certificate",
            format!("{id}, {} old, ends in {}", span(now.since(from)), span(left)),
        );
    }
}

fn roots(notes: &mut Notes, sequence: u64, first_end: Option<UnixTime>, now: UnixTime) {
    const ADVICE: &str = "make a new root at the CA before it ends";
    match first_end {
        None => notes.fail(
            "bundle",
            format!("sequence {sequence} has no root"),
            "join again with a new token",
        ),
        Some(end) if now > end => {
            notes.fail("bundle", format!("a root of sequence {sequence} has ended"), ADVICE);
        }
        Some(end) if end.since(now) < ROOT_WARNS => {
            let told = format!("a root of sequence {sequence} ends in {}", span(end.since(now)));
            notes.warn("bundle", told, ADVICE);
        }
        Some(end) => {
            let told = format!("sequence {sequence}, its first root ends in {}", span(end.since(now)));
            notes.ok("bundle", told);
        }
    }
}

/// The revocation map that other programs of the node read; the last heartbeat in it.
pub(super) fn map(notes: &mut Notes, kept: &Kept, config: &Config, now: UnixTime) -> Option<UnixTime> {
    let (Some(path), Some(domain)) = (config.revocation_map(), kept.domain()) else {
        return None;
    };
    let map = match MapReader::open(path, domain, MapOwner::RootOrSelf) {
        Ok(map) => map,
        Err(error) => {
            notes.fail(
                "revocation_map",
                error.to_string(),
                "remove it or name another path; the agent makes it",
            );
            return None;
        }
    };
    let view = map.view(now);
    let age = view.age(now);
    let told = match age {
        None => format!("{} has no filter", path.display()),
        Some(age) => format!("{}, last heartbeat {} ago", path.display(), span(age)),
    };
    match FreshnessPolicy::default().judge(age) {
        Freshness::Fresh => notes.ok("revocation_map", told),
        Freshness::Tolerated => {
            notes.warn(
                "revocation_map",
                told,
                "the agent is cut off from the CA or has stopped: see the lines about both",
            );
        }
        Freshness::Stale => notes.fail(
            "revocation_map",
            told,
            "verifiers refuse everything by it: start the agent, and see that it reaches the CA",
        ),
    }
    view.last_heartbeat()
}
