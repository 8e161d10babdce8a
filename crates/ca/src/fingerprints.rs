//! What a list of SHA-256 fingerprints names: live certificates, their public keys, the last keys of agents, by which they
//! could join again, and the CA's own keys.

use std::collections::BTreeMap;

use mintage_ledger::{Body, LiveQuery};
use mintage_proto::v1::FingerprintMatch;
use mintage_svid::cert_sha256;
use tonic::Code;

use crate::{
    ca_status::role_name,
    desk::Desk,
    limits::{FINGERPRINT_RECORDS_MAX, FINGERPRINTS_MAX},
    status::Refusal,
};

/// Looks through everything that lives. It reads each record, so it belongs on a thread that may wait.
pub(crate) fn find(desk: &Desk, asked: &[Vec<u8>]) -> Result<Vec<FingerprintMatch>, Refusal> {
    if asked.is_empty() || asked.len() > FINGERPRINTS_MAX {
        let text = format!(
            "sha256: 1 to {FINGERPRINTS_MAX} fingerprints are taken, not {}",
            asked.len()
        );
        return Err(Refusal::invalid(text));
    }
    if asked.iter().any(|fingerprint| fingerprint.len() != 32) {
        return Err(Refusal::invalid("sha256: a fingerprint has 32 bytes"));
    }
    let mut found: BTreeMap<&[u8], Option<FingerprintMatch>> =
        asked.iter().map(|fingerprint| (fingerprint.as_slice(), None)).collect();
    let live = desk.index.live(&LiveQuery::default(), desk.clock.unguarded())?;
    if live.len() > FINGERPRINT_RECORDS_MAX {
        let text = format!(
            "{} live certificates would have to be read, the limit is {FINGERPRINT_RECORDS_MAX}; revoke by serial or by key",
            live.len()
        );
        return Err(Refusal::new(Code::ResourceExhausted, "too-many", text));
    }
    for row in &live {
        let Some(issued) = desk.index.certificate_of(&row.issuer, &row.serial)? else {
            continue;
        };
        note(&mut found, issued.facts.spki_sha256.as_bytes(), "", 1);
        if let Body::Issue(issue) = issued.stored.decode()?.body {
            let hash = cert_sha256(&issue.certificate_der);
            note(&mut found, hash.as_bytes(), &row.serial.to_string(), 1);
        }
    }
    let view = desk.state.view();
    let last = view
        .agents()
        .flat_map(|agent| agent.current.iter().chain(&agent.earlier));
    last.for_each(|certificate| note(&mut found, certificate.spki.as_bytes(), "", 0));
    for key in view.ca_keys() {
        note(&mut found, key.key_id.as_bytes(), "", 0);
        if let Some(Some(own)) = found.get_mut(key.key_id.as_bytes().as_slice()) {
            own.ca_role = role_name(key.role).to_owned();
        }
    }
    // In the order asked, each once.
    Ok(asked
        .iter()
        .filter_map(|fingerprint| found.get_mut(fingerprint.as_slice())?.take())
        .collect())
}

fn note(found: &mut BTreeMap<&[u8], Option<FingerprintMatch>>, fingerprint: &[u8], serial: &str, certificates: u64) {
    let Some(place) = found.get_mut(fingerprint) else {
        return;
    };
    let entry = place.get_or_insert_with(|| FingerprintMatch {
        sha256: fingerprint.to_vec(),
        serial: serial.to_owned(),
        certificates: 0,
        ca_role: String::new(),
    });
    entry.certificates += certificates;
}
