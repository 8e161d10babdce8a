//! A small honest ledger as a list of records, to be forged at will, written through the journal and verified as a whole.

use std::{fs, time::Duration};

use mintage_identity::{AgentInstance, IssuerKeyId, ReplicaName, Serial, SpiffeId, SpkiHash, TrustDomain, UnixTime};
use mintage_ledger::{
    Actor, Attestation, Body, Checkpoint, FileJournal, Frontier, Journal, LogKey, OpenOptions, Origin, Record,
    wire::{self, CaEvent, CaEventKind, CaRole, Profile, RevocationRule, RevokedSerial, revocation_rule::Target},
};
use mintage_mint::{CaDates, CaKey, Issuer, make_intermediate, make_root};
use mintage_svid::LeafInfo;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::audit::verify::{Refused, Verified, VerifyArgs, verify};

/// 2026-11-23T21:00:00Z.
pub(crate) const START: i64 = 1_795_467_600;
pub(crate) const WEB: &str = "spiffe://dev.test/web";
pub(crate) const AGENT: &str = "spiffe://dev.test/mintage/agent/n1";

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::parse("dev.test").unwrap()
}

pub(crate) fn serial(fill: u8) -> Serial {
    Serial::from_random([fill; 16])
}

/// A CA whose key the forger holds too.
pub(crate) struct Authority {
    pub(crate) root: Issuer,
    pub(crate) key_id: IssuerKeyId,
    pub(crate) der: Vec<u8>,
    signer: rcgen::Issuer<'static, KeyPair>,
    pub(crate) not_after: UnixTime,
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self::until(CaDates::intermediate(at(0)))
    }

    pub(crate) fn until(dates: CaDates) -> Self {
        let root_key = CaKey::generate().unwrap().0;
        let root_der = make_root(&domain(), &root_key, serial(1), CaDates::root(at(0))).unwrap();
        let root = Issuer::load(&domain(), root_key, vec![root_der]).unwrap();
        let (key, pkcs8) = CaKey::generate().unwrap();
        let der = make_intermediate(&root, &key, serial(2), dates).unwrap();
        let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8.to_vec())).unwrap();
        let signer = rcgen::Issuer::from_ca_cert_der(&CertificateDer::from(der.clone()), pair).unwrap();
        Self {
            key_id: key.key_id(),
            root,
            der,
            signer,
            not_after: dates.not_after,
        }
    }

    /// The events of both keys and the bundle.
    pub(crate) fn bodies(&self) -> Vec<Body> {
        let root = self.root.info();
        let event = |role: CaRole, id: IssuerKeyId, der: &[u8], end: UnixTime| CaEvent {
            role: role.into(),
            key_id: id.as_bytes().to_vec(),
            certificate_der: der.to_vec(),
            not_after_s: end.seconds(),
            ..CaEvent::default()
        };
        let root_event = event(
            CaRole::Root,
            root.key_id(),
            self.root.certificate_der(),
            root.not_after(),
        );
        let issuing = event(CaRole::Intermediate, self.key_id, &self.der, self.not_after);
        let mut bodies = Vec::new();
        for event in [root_event, issuing] {
            for kind in [CaEventKind::Prepare, CaEventKind::Activate] {
                bodies.push(Body::CaEvent(CaEvent {
                    event: kind.into(),
                    ..event.clone()
                }));
            }
        }
        let roots_der = vec![self.root.certificate_der().to_vec()];
        bodies.push(Body::BundleChange(wire::BundleChange {
            sequence: 1,
            roots_der,
            jwt_keys: Vec::new(),
        }));
        bodies
    }

    /// An event about the issuing key.
    pub(crate) fn event(&self, kind: CaEventKind) -> Body {
        Body::CaEvent(CaEvent {
            event: kind.into(),
            role: CaRole::Intermediate.into(),
            key_id: self.key_id.as_bytes().to_vec(),
            ..CaEvent::default()
        })
    }

    /// A certificate as `leaf` wants it, whatever that is.
    pub(crate) fn sign(&self, leaf: &Leaf) -> Vec<u8> {
        let time = |at: UnixTime| OffsetDateTime::from_unix_timestamp(at.seconds()).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = &leaf.common_name {
            params.distinguished_name.push(DnType::CommonName, name.as_str());
        }
        params.serial_number = Some(SerialNumber::from_slice(leaf.serial.octets()));
        (params.not_before, params.not_after) = (time(leaf.not_before), time(leaf.not_after));
        params.subject_alt_names = vec![SanType::URI(leaf.id.as_str().try_into().unwrap())];
        let dns = leaf
            .dns_names
            .iter()
            .map(|name| SanType::DnsName(name.as_str().try_into().unwrap()));
        params.subject_alt_names.extend(dns);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, &self.signer).unwrap().der().to_vec()
    }
}

/// What a certificate says.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) id: String,
    pub(crate) serial: Serial,
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
    pub(crate) dns_names: Vec<String>,
    pub(crate) common_name: Option<String>,
}

impl Leaf {
    /// Of `id`, recorded at `second`, valid for ten minutes.
    pub(crate) fn new(id: &str, fill: u8, second: i64) -> Self {
        Self {
            id: id.to_owned(),
            serial: serial(fill),
            not_before: at(second).minus(Duration::from_secs(30)),
            not_after: at(second).plus(Duration::from_secs(600)),
            dns_names: Vec::new(),
            common_name: None,
        }
    }
}

pub(crate) fn at(second: i64) -> UnixTime {
    UnixTime::from_seconds(START + second)
}

pub(crate) fn admin() -> Actor {
    Actor::Admin {
        uid: 0,
        pid: 7,
        name: String::new(),
        address: "admin socket".into(),
    }
}

pub(crate) fn agent(instance: u64) -> Actor {
    Actor::Agent {
        id: SpiffeId::parse(AGENT).unwrap(),
        instance: AgentInstance(instance),
        serial: None,
    }
}

pub(crate) fn replica() -> Actor {
    Actor::Replica {
        id: SpiffeId::replica(&domain(), &ReplicaName::parse("ca-1").unwrap()),
    }
}

/// A ledger that is being written.
pub(crate) struct Story {
    pub(crate) authority: Authority,
    pub(crate) records: Vec<Record>,
    pub(super) log: LogKey,
    pub(super) origin: Origin,
}

impl Story {
    /// `log.open`, the CA's keys, entry `web`, agent `n1` joined by a token, one certificate for each, one revocation.
    pub(crate) fn honest() -> Self {
        let mut story = Self::bare(Authority::new());
        story.admin(Body::EntryPut(web_entry()));
        story.admin(Body::TokenCreate(wire::TokenCreate {
            token_hash: vec![5; 32],
            agent: "n1".into(),
            expires_ms: at(600).millis(),
            not_before_ms: 0,
        }));
        let hash = Actor::Token { hash: [5; 32] };
        story.push(hash, Body::TokenConsume(consume("n1", AGENT)));
        let instance = story.last();
        story.agent_certificate(3, instance);
        story.web(4, instance);
        let revoked = story.last();
        story.revoke(revoked);
        story.web(6, instance);
        story.push(
            replica(),
            Body::LogClose(wire::LogClose {
                reason: "clean stop".into(),
            }),
        );
        story
    }

    /// `log.open` and the keys of an authority.
    pub(crate) fn bare(authority: Authority) -> Self {
        let log = LogKey::generate(&Zeroizing::new([3; 32])).unwrap().0;
        let origin = Origin::new(&domain(), "a1b2", at(0)).unwrap();
        let open = wire::LogOpen {
            origin: origin.to_string(),
            vkey: log.vkey(&origin).to_string(),
            ..wire::LogOpen::default()
        };
        let mut story = Self {
            authority,
            records: Vec::new(),
            log,
            origin,
        };
        story.push(replica(), Body::LogOpen(open));
        for body in story.authority.bodies() {
            story.push(replica(), body);
        }
        story
    }

    /// Index of the last record.
    pub(crate) fn last(&self) -> u64 {
        self.records.len() as u64 - 1
    }

    /// Index of the first record of this kind.
    pub(crate) fn find(&self, kind: &str) -> usize {
        self.records
            .iter()
            .position(|record| record.kind().name() == kind)
            .unwrap()
    }

    /// Appends a record made at the second of its index, decided on everything before it.
    pub(crate) fn push(&mut self, actor: Actor, body: Body) {
        let second = self.records.len() as i64;
        let attestation = matches!(actor, Actor::Agent { .. }).then(|| Attestation {
            kind: "svid".into(),
            evidence: [8; 32],
            proven_at: at(second),
        });
        self.records.push(Record {
            time: at(second),
            salt: [second as u8; 16],
            actor,
            attestation,
            request_id: None,
            replica: "ca-1".into(),
            control_seen: self.records.len() as u64,
            body,
        });
    }

    pub(crate) fn admin(&mut self, body: Body) {
        self.push(admin(), body);
    }

    /// The second of the next record.
    pub(crate) fn second(&self) -> i64 {
        self.records.len() as i64
    }

    /// A certificate of the entry `web`.
    pub(crate) fn web(&mut self, fill: u8, instance: u64) {
        let leaf = Leaf {
            dns_names: vec!["web.dev.test".into()],
            ..Leaf::new(WEB, fill, self.second())
        };
        let issue = self.issue_web(&leaf);
        self.push(agent(instance), Body::Issue(issue));
    }

    pub(crate) fn issue_web(&self, leaf: &Leaf) -> wire::Issue {
        wire::Issue {
            spiffe_id: WEB.into(),
            entry: "web".into(),
            entry_revision: self.find("entry.put") as u64,
            selectors: web_entry().selectors,
            selectors_enforced_by_agent: true,
            rule: "entry".into(),
            ttl_seconds: 600,
            issuer_key_id: self.authority.key_id.as_bytes().to_vec(),
            certificate_der: self.authority.sign(leaf),
            profile: Profile::Workload.into(),
        }
    }

    pub(crate) fn agent_certificate(&mut self, fill: u8, instance: u64) {
        let leaf = Leaf::new(AGENT, fill, self.second());
        let issue = self.issue_bare(&leaf, Profile::Agent);
        self.push(agent(instance), Body::Issue(issue));
    }

    /// A certificate without entry.
    pub(crate) fn issue_bare(&self, leaf: &Leaf, profile: Profile) -> wire::Issue {
        wire::Issue {
            spiffe_id: leaf.id.clone(),
            rule: "itself".into(),
            ttl_seconds: 600,
            issuer_key_id: self.authority.key_id.as_bytes().to_vec(),
            certificate_der: self.authority.sign(leaf),
            profile: profile.into(),
            ..wire::Issue::default()
        }
    }

    /// The certificate of the issue record at `index`.
    pub(crate) fn leaf(&self, index: u64) -> LeafInfo {
        let Body::Issue(issue) = &self.records[index as usize].body else {
            panic!("no issue at {index}")
        };
        LeafInfo::parse(&issue.certificate_der).unwrap()
    }

    /// The serial of the certificate at `index`, as a revocation names it.
    pub(crate) fn struck(&self, index: u64) -> RevokedSerial {
        let leaf = self.leaf(index);
        RevokedSerial {
            issuer_key_id: self.authority.key_id.as_bytes().to_vec(),
            serial: leaf.serial().octets().to_vec(),
            not_after_s: leaf.not_after().seconds(),
        }
    }

    pub(crate) fn revoke(&mut self, index: u64) {
        let serials = vec![self.struck(index)];
        self.admin(Body::Revoke(wire::Revoke {
            serials,
            part: 1,
            parts: 1,
            ..wire::Revoke::default()
        }));
    }

    pub(crate) fn revoke_rule(&mut self, target: Target, cut: Option<UnixTime>) {
        let rules = vec![RevocationRule {
            target: Some(target),
            cut_s: cut.map(UnixTime::seconds),
        }];
        self.admin(Body::Revoke(wire::Revoke {
            rules,
            part: 1,
            parts: 1,
            ..wire::Revoke::default()
        }));
    }

    /// The public key of the certificate at `index`.
    pub(crate) fn spki(&self, index: u64) -> SpkiHash {
        self.leaf(index).spki_sha256()
    }

    /// Changes the issue record at `index`.
    pub(crate) fn change_issue(&mut self, index: u64, change: impl FnOnce(&mut wire::Issue)) {
        let Body::Issue(issue) = &mut self.records[index as usize].body else {
            panic!("no issue at {index}")
        };
        change(issue);
    }

    /// Writes the ledger, signs its end, and verifies it.
    pub(crate) fn verify(&self, args: &VerifyArgs) -> Result<Verified, Box<Refused>> {
        let dir = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        self.write(&dir.path().join("ledger"));
        verify(dir.path(), args)
    }

    pub(crate) fn write(&self, ledger: &std::path::Path) {
        let journal = self.journal(ledger, &self.records);
        let mut tree = Frontier::new();
        for record in &self.records {
            tree.push(record.clone().encode().unwrap().leaf_hash());
        }
        let head = Checkpoint {
            origin: self.origin.clone(),
            size: tree.size(),
            root: tree.root(),
        };
        journal.cas_checkpoint(1, &self.log.sign(head)).unwrap();
        drop(journal);
        assert!(fs::metadata(ledger.join("policy")).is_ok());
    }

    /// A new ledger of these records.
    pub(super) fn journal(&self, ledger: &std::path::Path, records: &[Record]) -> FileJournal {
        let options = OpenOptions {
            reserve_bytes: 4096,
            ..OpenOptions::default()
        };
        let mut encoded = records.iter().map(|record| record.clone().encode().unwrap());
        let opening = encoded.next().unwrap();
        let journal = FileJournal::create(ledger, &self.origin, &self.log, opening, options).unwrap();
        for record in encoded {
            journal.append(&[record], u64::MAX).unwrap();
        }
        journal
    }
}

pub(crate) fn web_entry() -> wire::EntryPut {
    wire::EntryPut {
        name: "web".into(),
        spiffe_id: WEB.into(),
        agents: vec!["spiffe://dev.test/mintage/agent/*".into()],
        selectors: vec!["unix:gid:5".into(), "unix:uid:1000".into()],
        ttl_seconds: 600,
        dns_names: vec!["web.dev.test".into()],
        ..wire::EntryPut::default()
    }
}

pub(crate) fn consume(name: &str, id: &str) -> wire::TokenConsume {
    let attest = wire::AgentAttest {
        name: name.into(),
        spiffe_id: id.into(),
        kind: "join_token".into(),
        evidence_sha256: vec![1; 32],
        spki_sha256: vec![2; 32],
        ..wire::AgentAttest::default()
    };
    wire::TokenConsume {
        token_hash: vec![5; 32],
        attest: Some(attest),
    }
}
