//! The CA's keys through their lives: prepared before they sign, certified by a root that stands, retired for good.

use std::collections::HashMap;

use mintage_identity::{IssuerKeyId, Serial, UnixTime};
use mintage_ledger::wire::{BundleChange, CaEvent, CaEventKind, CaRole};
use mintage_mint::jwt_kid;
use mintage_state::CaKeyRecord;
use mintage_svid::{CertInfo, spki_sha256, verify_issued};
use ring::digest::{SHA256, digest};

use super::{Issued, Meaning, Source};

/// A key that signs certificates.
#[derive(Debug)]
pub(super) struct SigningKey {
    stage: CaEventKind,
    role: CaRole,
    pub(super) info: CertInfo,
}

/// Every key that has a certificate.
#[derive(Debug, Default)]
pub(super) struct Keys {
    signing: HashMap<IssuerKeyId, SigningKey>,
    /// Keys of JWT-SVIDs, which have no certificate, and what became of each; by their `kid`.
    jwt: HashMap<String, CaEventKind>,
}

impl SigningKey {
    fn is_active(&self) -> bool {
        self.stage == CaEventKind::Activate
    }
}

const fn stage_name(stage: CaEventKind) -> &'static str {
    match stage {
        CaEventKind::Unspecified => "unknown",
        CaEventKind::Prepare => "prepared, not yet active",
        CaEventKind::Activate => "active",
        CaEventKind::Retire => "retired",
        CaEventKind::Taint => "tainted",
        CaEventKind::Revoke => "revoked",
    }
}

impl Keys {
    /// The key that may sign leaves now.
    ///
    /// # Errors
    /// Why it may not.
    pub(super) fn issuer(&self, id: &IssuerKeyId) -> Result<&SigningKey, String> {
        let key = self
            .signing
            .get(id)
            .ok_or_else(|| format!("no record made the issuing key {id}"))?;
        match key.is_active() {
            true => Ok(key),
            false => Err(format!("the issuing key {id} is {}", stage_name(key.stage))),
        }
    }

    /// That the key with this `kid` may sign tokens now.
    ///
    /// # Errors
    /// Why it may not.
    pub(super) fn jwt(&self, kid: &str) -> Result<(), String> {
        match self.jwt.get(kid) {
            Some(CaEventKind::Activate) => Ok(()),
            Some(stage) => Err(format!("the key {kid:?} of JWT-SVIDs is {}", stage_name(*stage))),
            None => Err(format!("no record made the key {kid:?} of JWT-SVIDs")),
        }
    }

    /// What happened to a key of JWT-SVIDs. It goes through its stages in one direction.
    pub(super) fn jwt_event(&mut self, id: &IssuerKeyId, stage: CaEventKind) {
        let standing = self.jwt.entry(jwt_kid(id)).or_insert(stage);
        if (*standing as i32) < stage as i32 {
            *standing = stage;
        }
    }

    /// Takes up a key that a snapshot holds.
    pub(super) fn take_up(&mut self, key: &CaKeyRecord) -> Result<(), String> {
        let info =
            CertInfo::parse_signing(&key.certificate_der).map_err(|error| format!("a key's certificate: {error}"))?;
        let signing = SigningKey {
            stage: key.stage,
            role: key.role,
            info,
        };
        self.signing.insert(key.key_id, signing);
        Ok(())
    }

    /// The key by which a key's certificate was signed, of all roots that were ever recorded, and what is in it.
    pub(super) fn issuer_of(&self, key: &CaKeyRecord) -> Result<(IssuerKeyId, &CertInfo), String> {
        let unknown = || format!("the certificate of the key {} is signed by no root", key.key_id);
        let info = self
            .signing
            .get(&key.key_id)
            .map(|known| &known.info)
            .ok_or_else(unknown)?;
        let mut roots = self.signing.iter().filter(|(_, root)| root.role == CaRole::Root);
        let signer = roots.find(|(_, root)| {
            root.info.subject_raw() == info.issuer_raw()
                && verify_issued(&key.certificate_der, root.info.spki_der()).is_ok()
        });
        signer.map(|(id, _)| (*id, info)).ok_or_else(unknown)
    }

    /// True when a record made this key.
    pub(super) fn knows(&self, id: &IssuerKeyId) -> bool {
        self.signing.contains_key(id)
    }

    /// The bundle holds only roots and JWT keys that were recorded.
    pub(super) fn bundle(&self, change: &BundleChange) -> Result<(), String> {
        for der in &change.roots_der {
            let info = CertInfo::parse_signing(der).map_err(|error| format!("a root of the bundle: {error}"))?;
            let known = self.signing.get(&info.key_id());
            if known.is_none_or(|key| key.role != CaRole::Root) {
                return Err(format!(
                    "the bundle holds the root {}, which no record made",
                    info.key_id()
                ));
            }
        }
        for key in &change.jwt_keys {
            let id = IssuerKeyId::new(*spki_sha256(&key.spki_der).as_bytes());
            if key.kid != jwt_kid(&id) || !self.jwt.contains_key(&key.kid) {
                return Err(format!(
                    "the bundle holds the JWT key {:?}, which no record made",
                    key.kid
                ));
            }
        }
        Ok(())
    }

    /// Checks a CA certificate at its first event: a root signs itself, everything else is signed by a root that stands.
    fn check_certificate(&self, role: CaRole, der: &[u8], info: &CertInfo) -> Result<IssuerKeyId, String> {
        let signed_by =
            |spki: &[u8]| verify_issued(der, spki).map_err(|error| format!("the certificate of the key: {error}"));
        if role == CaRole::Root {
            if !info.is_self_issued() {
                return Err("the root's certificate is not its own".into());
            }
            signed_by(info.spki_der())?;
            return Ok(info.key_id());
        }
        let mut roots = self
            .signing
            .iter()
            .filter(|(_, key)| key.role == CaRole::Root && key.is_active());
        let above = roots
            .find(|(_, root)| root.info.subject_raw() == info.issuer_raw() && signed_by(root.info.spki_der()).is_ok());
        above
            .map(|(id, _)| *id)
            .ok_or_else(|| "the certificate of the key is signed by no root that stands".to_owned())
    }
}

impl Meaning {
    /// What happened to a key of the CA.
    pub(super) fn ca_event(&mut self, index: u64, event: &CaEvent) -> Result<(), String> {
        let stage = CaEventKind::try_from(event.event).map_err(|_| "an event of no known kind".to_owned())?;
        let role = CaRole::try_from(event.role).map_err(|_| "a key of no known role".to_owned())?;
        if stage == CaEventKind::Unspecified || role == CaRole::Unspecified {
            return Err("an event that names neither kind nor role".into());
        }
        let id = IssuerKeyId::from_slice(&event.key_id).map_err(|error| error.to_string())?;
        if !event.public_key.is_empty() && digest(&SHA256, &event.public_key).as_ref() != event.key_id {
            return Err("the key's id is not the hash of the key".into());
        }
        self.recorded.event(index, event, (stage, role, id));
        if role == CaRole::Log {
            self.log_keys.insert(event.public_key.clone());
        }
        if role == CaRole::Jwt {
            self.keys.jwt_event(&id, stage);
            return Ok(());
        }
        if let Some(key) = self.keys.signing.get_mut(&id) {
            // A key goes through its stages in one direction; an event that goes back changes nothing.
            if (key.stage as i32) < stage as i32 {
                key.stage = stage;
            }
            return Ok(());
        }
        if event.certificate_der.is_empty() {
            return Ok(());
        }
        self.new_signing_key(event, (stage, role, id))
    }

    fn new_signing_key(
        &mut self,
        event: &CaEvent,
        (stage, role, id): (CaEventKind, CaRole, IssuerKeyId),
    ) -> Result<(), String> {
        let der = &event.certificate_der;
        let info = CertInfo::parse_signing(der).map_err(|error| format!("the certificate of the key: {error}"))?;
        if info.key_id() != id {
            return Err("the key's id is not that of its certificate".into());
        }
        let end = UnixTime::from_seconds(event.not_after_s);
        if event.not_after_s != 0 && end != info.not_after() {
            return Err("the key's end is not that of its certificate".into());
        }
        let issuer = self.keys.check_certificate(role, der, &info)?;
        self.remember_ca(*info.serial(), issuer, info.not_after());
        self.keys.signing.insert(id, SigningKey { stage, role, info });
        Ok(())
    }

    /// A CA certificate can be revoked like any other.
    pub(super) fn remember_ca(&mut self, serial: Serial, issuer: IssuerKeyId, not_after: UnixTime) {
        let issued = Issued {
            issuer,
            not_after_s: not_after.seconds(),
            by: Source::Ca,
        };
        self.serials.entry(serial).or_insert(issued);
    }
}
