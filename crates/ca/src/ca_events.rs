//! Records of new CA keys: each is prepared and made active in the ledger before anything is signed with it there.

use mintage_ledger::{
    Body,
    wire::{CaEvent, CaEventKind, CaRole},
};
use mintage_svid::CertInfo;
use ring::digest;

/// A key with a certificate; its stage is left open.
pub(crate) fn certified(role: CaRole, info: &CertInfo, der: &[u8]) -> CaEvent {
    CaEvent {
        role: role.into(),
        key_id: info.key_id().as_bytes().to_vec(),
        certificate_der: der.to_vec(),
        not_after_s: info.not_after().seconds(),
        ..CaEvent::default()
    }
}

/// A key without a certificate; its stage is left open.
pub(crate) fn bare(role: CaRole, public: &[u8], statement: Vec<u8>, not_after_s: i64) -> CaEvent {
    CaEvent {
        role: role.into(),
        key_id: digest::digest(&digest::SHA256, public).as_ref().to_vec(),
        public_key: public.to_vec(),
        statement,
        not_after_s,
        ..CaEvent::default()
    }
}

/// The two records by which a key comes into use.
pub(crate) fn introduced(event: CaEvent) -> [Body; 2] {
    [CaEventKind::Prepare, CaEventKind::Activate].map(|kind| {
        Body::CaEvent(CaEvent {
            event: kind.into(),
            ..event.clone()
        })
    })
}
