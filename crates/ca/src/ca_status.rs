//! `ca status`: the CA's keys with their ends, and how much it holds.

use std::sync::Arc;

use mintage_ledger::{
    LiveQuery,
    wire::{CaEventKind, CaRole},
};
use mintage_proto::v1::{CaCrl, CaKey, CaStatusResponse};
use mintage_state::CaKeyRecord;
use mintage_svid::{CertInfo, LeafInfo};

use crate::{
    crls::{ROOT_CRL_REMEDY, SignedList},
    desk::Desk,
    limits::CRL_END_WARNING,
};

/// The word for a role.
pub(crate) const fn role_name(role: CaRole) -> &'static str {
    match role {
        CaRole::Unspecified => "unknown",
        CaRole::Root => "root",
        CaRole::Intermediate => "intermediate",
        CaRole::Log => "log",
        CaRole::Revocation => "revocation",
        CaRole::Jwt => "jwt",
        CaRole::Replica => "replica",
    }
}

const fn stage_name(stage: CaEventKind) -> &'static str {
    match stage {
        CaEventKind::Unspecified => "unknown",
        CaEventKind::Prepare => "prepared",
        CaEventKind::Activate => "active",
        CaEventKind::Retire => "retired",
        CaEventKind::Taint => "tainted",
        CaEventKind::Revoke => "revoked",
    }
}

fn wire_key(key: &CaKeyRecord) -> CaKey {
    let info = CertInfo::parse(&key.certificate_der).ok();
    CaKey {
        role: role_name(key.role).to_owned(),
        key_id: key.key_id.to_string(),
        status: stage_name(key.stage).to_owned(),
        not_before_ms: info.as_ref().map_or(0, |info| info.not_before().millis()),
        not_after_ms: key.not_after.map_or(0, mintage_identity::UnixTime::millis),
        subject: subject_text(&key.certificate_der),
        serial: info.as_ref().map(|info| info.serial().to_string()).unwrap_or_default(),
    }
}

/// This replica's own certificate. The inventory holds its predecessors too; this is the one that callers are shown.
fn wire_own(desk: &Desk) -> Option<CaKey> {
    let der = desk.own_certificate.load_full()?;
    let info = LeafInfo::parse(&der).ok()?;
    Some(CaKey {
        role: role_name(CaRole::Replica).to_owned(),
        key_id: info.spki_sha256().to_string(),
        status: stage_name(CaEventKind::Activate).to_owned(),
        not_before_ms: info.not_before().millis(),
        not_after_ms: info.not_after().millis(),
        subject: desk.own_id().to_string(),
        serial: info.serial().to_string(),
    })
}

/// The subject as people write it, or nothing.
fn subject_text(der: &[u8]) -> String {
    use x509_parser::prelude::FromDer;
    x509_parser::certificate::X509Certificate::from_der(der)
        .map(|(_, cert)| cert.subject().to_string())
        .unwrap_or_default()
}

/// The current lists of revoked certificates.
fn wire_crls(desk: &Desk) -> Vec<CaCrl> {
    let now = desk.clock.unguarded();
    let view = desk.state.view();
    let lists = desk.crls.current().unwrap_or_default();
    let wire = |one: &Arc<SignedList>| {
        let key = view.ca_keys().find(|key| key.key_id == one.issuer);
        let is_of_root = one.issuer != desk.issuer.key_id();
        let is_near = is_of_root && one.list.next_update() <= now.plus(CRL_END_WARNING);
        CaCrl {
            key_id: one.issuer.to_string(),
            role: key.map_or("unknown", |key| role_name(key.role)).to_owned(),
            number: one.list.number(),
            this_update_ms: one.list.this_update().millis(),
            next_update_ms: one.list.next_update().millis(),
            entries: one.list.entries() as u64,
            remark: if is_near {
                ROOT_CRL_REMEDY.to_owned()
            } else {
                String::new()
            },
        }
    };
    lists.iter().map(wire).collect()
}

/// Everything at one glance.
pub(crate) fn response(desk: &Desk) -> CaStatusResponse {
    let view = desk.state.view();
    let not_ready_because = desk.health.why_not_ready().unwrap_or_default();
    CaStatusResponse {
        trust_domain: desk.domain.to_string(),
        replica: desk.replica.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        keys: view.ca_keys().map(wire_key).chain(wire_own(desk)).collect(),
        ledger_origin: desk.journal.log().origin().to_string(),
        ledger_size: desk.journal.size(),
        entries: view.entry_count() as u64,
        agents: view.agent_count() as u64,
        connected_agents: desk.fleet.len() as u64,
        live_certificates: desk
            .index
            .live_count_shown(&LiveQuery::default(), desk.clock.unguarded()),
        revocation_sequence: view.revoked().sequence(),
        ready: not_ready_because.is_empty(),
        not_ready_because,
        agent_address: desk.advertise.first().cloned().unwrap_or_default(),
        seen_unknown: desk.metrics.seen_unknown_count(),
        crls: wire_crls(desk),
    }
}
