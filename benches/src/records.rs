//! Ledger records by the million: the entries and agents of a CA, issuances to them as it writes them, drawn at random, and
//! control records. Keys and signatures are random octets in a real certificate's place, since nothing that is measured here
//! checks them; all else means what it says.

use mintage_identity::{AgentInstance, IssuerKeyId, RequestId, Serial, SpiffeId, UnixTime};
use mintage_ledger::{Actor, Body, EncodedRecord, IssueRecord, Record, wire};
use ring::rand::{SecureRandom, SystemRandom};

use crate::load::Failure;

/// Identities that certificates are issued to, each through an entry of its own.
pub const IDENTITIES: u64 = 5_000;
/// Agents that obtain them.
pub const AGENTS: u64 = 1_000;
/// Certificates a second, by the records' own clock: ten million a day.
const PER_SECOND: u64 = 116;
/// Lifetime of a certificate in seconds.
const TTL: u32 = 600;
/// When the first record was made: an hour after the beginning of 2026.
const BEGIN_MS: i64 = 1_767_229_200_000;

/// Random octets, drawn from the system in large pieces.
struct Random {
    pool: Vec<u8>,
    at: usize,
    system: SystemRandom,
}

impl Random {
    fn new() -> Self {
        Self {
            pool: vec![0; 1 << 16],
            at: 1 << 16,
            system: SystemRandom::new(),
        }
    }

    fn fill(&mut self, out: &mut [u8]) {
        if self.at + out.len() > self.pool.len() {
            self.system.fill(&mut self.pool).expect("the system gives randomness");
            self.at = 0;
        }
        out.copy_from_slice(&self.pool[self.at..self.at + out.len()]);
        self.at += out.len();
    }

    fn octets<const N: usize>(&mut self) -> [u8; N] {
        let mut octets = [0; N];
        self.fill(&mut octets);
        octets
    }

    fn below(&mut self, limit: u64) -> u64 {
        u64::from_le_bytes(self.octets()) % limit
    }
}

/// One identity with a certificate to be varied.
struct Template {
    spiffe_id: String,
    entry: String,
    selectors: Vec<String>,
    certificate: Vec<u8>,
    serial_at: usize,
    validity_at: usize,
    key_at: usize,
    signature_at: usize,
}

/// Makes records one after the other.
pub struct Generator {
    random: Random,
    templates: Vec<Template>,
    agents: Vec<Actor>,
    issuer: IssuerKeyId,
    /// The revision of the first identity's entry; the others follow.
    revision: u64,
    /// Records that stood when an issuance is decided.
    control_seen: u64,
}

/// The identity of this number.
pub fn identity(number: u64) -> String {
    format!("spiffe://dev.test/cluster/ns/team-{}/sa/service-{number}", number % 40)
}

/// The agent of this number.
pub fn agent(number: u64) -> String {
    format!("eu-west-node-{number:04}")
}

/// When the record at this place was made, by the records' own clock.
pub fn time_of(index: u64) -> UnixTime {
    UnixTime::from_millis(BEGIN_MS + (index * 1000 / PER_SECOND).cast_signed())
}

impl Generator {
    /// Makes a certificate for each identity.
    ///
    /// # Errors
    /// When a certificate or name cannot be made.
    pub fn new() -> Result<Self, Failure> {
        let mut ca = rcgen::CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        let issuer = rcgen::Issuer::new(ca, rcgen::KeyPair::generate()?);
        Self::under(&issuer, IssuerKeyId::new([7; 32]))
    }

    /// Makes a certificate for each identity that names the issuing certificate of a CA as its issuer.
    ///
    /// # Errors
    /// When a certificate or name cannot be made, or the issuing one cannot be read.
    pub fn of(issuing_certificate: &[u8], id: IssuerKeyId) -> Result<Self, Failure> {
        let der = issuing_certificate.to_vec().into();
        // Signatures are random octets anyhow.
        let issuer = rcgen::Issuer::from_ca_cert_der(&der, rcgen::KeyPair::generate()?)?;
        Self::under(&issuer, id)
    }

    fn under(issuer: &rcgen::Issuer<'_, rcgen::KeyPair>, id: IssuerKeyId) -> Result<Self, Failure> {
        let leaf = rcgen::KeyPair::generate()?;
        let templates = (0..IDENTITIES).map(|number| template(number, &leaf, issuer));
        let agents = (0..AGENTS).map(|number| {
            Ok(Actor::Agent {
                id: SpiffeId::parse(&format!("spiffe://dev.test/mintage/agent/{}", agent(number)))?,
                instance: AgentInstance(number + 5),
                serial: None,
            })
        });
        Ok(Self {
            random: Random::new(),
            templates: templates.collect::<Result<_, Failure>>()?,
            agents: agents.collect::<Result<_, Failure>>()?,
            issuer: id,
            revision: 9,
            control_seen: 6000,
        })
    }

    /// The issuance at this place of the log, and its serial.
    ///
    /// # Errors
    /// When the record is refused.
    pub fn issue(&mut self, index: u64) -> Result<(EncodedRecord, Serial), Failure> {
        let random = &mut self.random;
        let (who, node) = (random.below(IDENTITIES), random.below(AGENTS));
        let template = &mut self.templates[who as usize];
        let time = time_of(index);
        let serial = Serial::from_random(random.octets());
        let certificate = &mut template.certificate;
        certificate[template.serial_at..template.serial_at + 16].copy_from_slice(serial.octets());
        put_validity(&mut certificate[template.validity_at..], time);
        random.fill(&mut certificate[template.key_at..template.key_at + 64]);
        random.fill(&mut certificate[template.signature_at..]);
        let actor = &mut self.agents[node as usize];
        if let Actor::Agent { serial, .. } = actor {
            *serial = Some(Serial::from_random(random.octets()));
        }
        let (salt, request) = (random.octets(), RequestId::new(random.octets()));
        let mut evidence = [0x5e; 32];
        evidence[..8].copy_from_slice(&node.to_be_bytes());
        let record = IssueRecord {
            time,
            salt: &salt,
            actor,
            attestation: Some(("svid", &evidence, time)),
            request_id: Some(&request),
            replica: "ca-1",
            control_seen: self.control_seen,
            spiffe_id: &template.spiffe_id,
            entry: Some((
                &template.entry,
                who + self.revision,
                template.selectors.iter().map(String::as_str).collect(),
            )),
            rule: "entry",
            ttl_seconds: TTL,
            issuer: &self.issuer,
            certificate_der: &template.certificate,
            profile: wire::Profile::Workload,
        };
        Ok((record.encode()?, serial))
    }

    /// The records by which all entries and agents come to be, for places of the log from `first` on. Issuances that are made
    /// afterwards are through these.
    ///
    /// # Errors
    /// When a record is refused.
    pub fn population(&mut self, first: u64) -> Result<Vec<EncodedRecord>, Failure> {
        let mut records = Vec::new();
        self.revision = first;
        for number in 0..self.templates.len() {
            let template = &self.templates[number];
            let put = wire::EntryPut {
                name: template.entry.clone(),
                spiffe_id: template.spiffe_id.clone(),
                agents: vec!["spiffe://dev.test/mintage/agent/*".into()],
                selectors: template.selectors.clone(),
                ttl_seconds: TTL,
                ..wire::EntryPut::default()
            };
            let at = first + records.len() as u64;
            records.push(self.record(at, admin(), Body::EntryPut(put))?);
        }
        for number in 0..AGENTS {
            let (at, name, hash) = (first + records.len() as u64, agent(number), self.random.octets());
            let token = wire::TokenCreate {
                token_hash: hash.to_vec(),
                agent: name.clone(),
                expires_ms: time_of(at + 1).millis() + 1,
                not_before_ms: 0,
            };
            let attest = wire::AgentAttest {
                spiffe_id: format!("spiffe://dev.test/mintage/agent/{name}"),
                name,
                kind: "join_token".into(),
                evidence_sha256: hash.to_vec(),
                spki_sha256: self.random.octets::<32>().to_vec(),
                ..wire::AgentAttest::default()
            };
            let consume = wire::TokenConsume {
                token_hash: hash.to_vec(),
                attest: Some(attest),
            };
            records.push(self.record(at, admin(), Body::TokenCreate(token))?);
            records.push(self.record(at + 1, Actor::Token { hash }, Body::TokenConsume(consume))?);
            if let Actor::Agent { instance, .. } = &mut self.agents[number as usize] {
                *instance = AgentInstance(at + 1);
            }
        }
        self.control_seen = first + records.len() as u64;
        Ok(records)
    }

    fn record(&mut self, index: u64, actor: Actor, body: Body) -> Result<EncodedRecord, Failure> {
        let record = Record {
            time: time_of(index),
            salt: self.random.octets(),
            actor,
            attestation: None,
            request_id: None,
            replica: "ca-1".into(),
            control_seen: 0,
            body,
        };
        Ok(record.encode()?)
    }

    /// A new revision of an entry; the records before it are `0..index`, all of this function.
    ///
    /// # Errors
    /// When the record is refused.
    pub fn entry(&mut self, index: u64) -> Result<EncodedRecord, Failure> {
        let (name, replaces) = ((index - 1) % IDENTITIES, index.saturating_sub(IDENTITIES));
        let template = &self.templates[name as usize];
        let put = wire::EntryPut {
            name: template.entry.clone(),
            spiffe_id: template.spiffe_id.clone(),
            agents: vec![format!("spiffe://dev.test/mintage/agent/{}", agent(name % AGENTS))],
            selectors: vec![format!("unix:uid:{}", 1000 + index % 1000)],
            ttl_seconds: TTL,
            replaces_revision: replaces,
            ..wire::EntryPut::default()
        };
        self.record(index, admin(), Body::EntryPut(put))
    }
}

fn admin() -> Actor {
    Actor::Admin {
        uid: 0,
        pid: 1,
        name: "root".into(),
        address: "admin.sock".into(),
    }
}

fn template(
    number: u64,
    key: &rcgen::KeyPair,
    issuer: &rcgen::Issuer<'_, rcgen::KeyPair>,
) -> Result<Template, Failure> {
    let (spiffe_id, mark) = (identity(number), [0x42; 16]);
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![rcgen::SanType::URI(spiffe_id.clone().try_into()?)];
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&mark));
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        rcgen::ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2026, 1, 2);
    let certificate = params.signed_by(key, issuer)?.der().to_vec();
    let find = |what: &[u8]| {
        let at = certificate.windows(what.len()).position(|window| window == what);
        at.ok_or("a certificate lacks one of its parts")
    };
    // Behind its first octet, which says that the point is not compressed.
    let key_at = find(key.public_key_raw())? + 1;
    Ok(Template {
        serial_at: find(&mark)?,
        validity_at: find(b"260101000000Z")?,
        key_at,
        signature_at: certificate.len() - 60,
        entry: format!("service-{number}"),
        selectors: (0..7)
            .map(|at| format!("k8s:pod-label:app-{at}:service-{number}"))
            .collect(),
        spiffe_id,
        certificate,
    })
}

/// Writes both times of a validity in UTCTime, of which the second begins 15 octets after the first.
fn put_validity(at: &mut [u8], time: UnixTime) {
    for (offset, seconds) in [(0, time.seconds() - 30), (15, time.seconds() + i64::from(TTL))] {
        let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Days since 2026-01-01, within its first month: ten million records take a day.
        let day = day - BEGIN_MS / 86_400_000 + 1;
        let text = format!(
            "2601{day:02}{:02}{:02}{:02}Z",
            second / 3600,
            second / 60 % 60,
            second % 60
        );
        at[offset..offset + 13].copy_from_slice(&text.as_bytes()[..13]);
    }
}
