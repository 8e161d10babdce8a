//! The configuration: raw TOML is parsed into values that carry their units; an unknown key, a wrong type or a value out
//! of range is refused with file and line.

use std::{
    net::SocketAddr,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use mintage_identity::{ReplicaName, TrustDomain, Ttl, parse_duration};
use mintage_policy::{IssuancePolicy, TomlProblem};
use mintage_sys::text_file;
use serde::Deserialize;
use toml::Spanned;

use crate::{
    auditors::{AuditSettings, Auditors, RawAudit},
    crls::CrlSettings,
    limits::{SNAPSHOT_RECORD_INTERVAL, WITNESSES_MAX},
    public::{PublicSettings, RawPublic},
    shards::ShardPolicy,
    upload::{RawUpload, UploadSettings},
    witnessing::{RawWitness, SubmissionPrefix, WitnessPeer, parse_key},
};

/// Largest configuration file in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Addresses one join token can carry.
const ADVERTISE_MAX: usize = 8;
/// Where the CA listens for agents unless told otherwise.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:8443";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    trust_domain: Option<Spanned<String>>,
    data_dir: Option<PathBuf>,
    replica: Option<Spanned<String>>,
    listen: Option<Spanned<String>>,
    advertise: Option<Spanned<Vec<String>>>,
    metrics: Option<Spanned<String>>,
    passphrase_file: Option<PathBuf>,
    #[serde(default)]
    ca: RawCa,
    #[serde(default)]
    ledger: RawLedger,
    #[serde(default)]
    witness: Vec<RawWitness>,
    audit: Option<RawAudit>,
    public: Option<RawPublic>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawCa {
    chain: Option<Spanned<String>>,
    max_ttl: Option<Spanned<String>>,
    agent_ttl: Option<Spanned<String>>,
    jwt_ttl: Option<Spanned<String>>,
    jwt_rsa_key_file: Option<PathBuf>,
    #[serde(default)]
    allow_rsa: bool,
    #[serde(default)]
    strict_csr: bool,
    rotate_keys: Option<bool>,
    crl_validity: Option<Spanned<String>>,
    #[serde(default)]
    crl_reasons: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLedger {
    checkpoint_interval: Option<Spanned<String>>,
    max_unwitnessed: Option<Spanned<String>>,
    exit_after: Option<Spanned<String>>,
    shards: Option<Spanned<String>>,
    retain: Option<Spanned<String>>,
    upload: Option<RawUpload>,
}

/// Which key signs leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ChainMode {
    /// An issuing intermediate below the root: chains are two certificates long.
    #[default]
    Intermediate,
    /// The root itself: chains are one certificate long, and the root's key is online.
    Root,
}

impl ChainMode {
    /// The word in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Intermediate => "intermediate",
            Self::Root => "root",
        }
    }
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) trust_domain: Option<TrustDomain>,
    pub(crate) data_dir: PathBuf,
    pub(crate) replica: Option<ReplicaName>,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: Vec<String>,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) passphrase_file: Option<PathBuf>,
    pub(crate) jwt_rsa_key_file: Option<PathBuf>,
    pub(crate) chain: ChainMode,
    pub(crate) policy: IssuancePolicy,
    pub(crate) strict_csr: bool,
    pub(crate) crls: CrlSettings,
    pub(crate) checkpoint_interval: Duration,
    pub(crate) snapshot_records: Duration,
    pub(crate) witnesses: Vec<WitnessPeer>,
    pub(crate) max_unwitnessed: Duration,
    /// How long a CA whose ledger failed stays up for readers.
    pub(crate) exit_after: Duration,
    pub(crate) shards: ShardPolicy,
    pub(crate) upload: Option<UploadSettings>,
    pub(crate) audit: Option<AuditSettings>,
    pub(crate) public: PublicSettings,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(TomlProblem);

impl Config {
    /// Everything at its default over a data directory.
    pub fn for_data_dir(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            trust_domain: None,
            data_dir: data_dir.into(),
            replica: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 8443)),
            advertise: Vec::new(),
            metrics: None,
            passphrase_file: None,
            jwt_rsa_key_file: None,
            chain: ChainMode::default(),
            policy: IssuancePolicy::default(),
            strict_csr: false,
            crls: CrlSettings::default(),
            checkpoint_interval: Duration::from_secs(1),
            snapshot_records: SNAPSHOT_RECORD_INTERVAL,
            witnesses: Vec::new(),
            max_unwitnessed: Duration::from_secs(60),
            exit_after: Duration::from_secs(30),
            shards: ShardPolicy::default(),
            upload: None,
            audit: None,
            public: PublicSettings::default(),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Names the file, the line and, for an unknown key, the nearest valid one.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = text_file::read(path, FILE_BYTES_MAX)
            .map_err(|problem| ConfigError(TomlProblem::of_file(path, problem)))?;
        Self::parse(path, &text)
    }

    /// Parses the text of `file`, which is for error messages alone.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let raw: RawConfig =
            toml::from_str(text).map_err(|error| ConfigError(TomlProblem::from_toml(file, text, &error)))?;
        Checker { file, text }.check(raw)
    }

    /// Listens on this address instead.
    #[must_use]
    pub fn listening_on(mut self, listen: SocketAddr) -> Self {
        self.listen = listen;
        self
    }

    /// Reads the passphrase of the keys from this file.
    #[must_use]
    pub fn with_passphrase_file(mut self, file: Option<PathBuf>) -> Self {
        self.passphrase_file = file.or(self.passphrase_file);
        self
    }

    /// Looks so often whether the hash of a published snapshot is to be recorded, instead of once a minute.
    #[must_use]
    pub fn with_snapshot_records(mut self, every: Duration) -> Self {
        self.snapshot_records = every;
        self
    }

    /// Signs JWT-SVIDs with the RSA key in this file instead of keys that are made here.
    #[must_use]
    pub fn with_jwt_rsa_key_file(mut self, file: Option<PathBuf>) -> Self {
        self.jwt_rsa_key_file = file;
        self
    }

    /// Serves metrics and health on this loopback address.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Option<SocketAddr>) -> Self {
        self.metrics = metrics.or(self.metrics);
        self
    }

    /// Signs leaves with this key.
    #[must_use]
    pub fn with_chain(mut self, chain: ChainMode) -> Self {
        self.chain = chain;
        self
    }

    /// Issues by this policy.
    #[must_use]
    pub fn with_policy(mut self, policy: IssuancePolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Serves the ledger to these auditors on this address.
    ///
    /// # Errors
    /// As an `[audit]` in a file, without a line.
    pub fn with_auditors(mut self, listen: SocketAddr, ids: &[&str]) -> Result<Self, String> {
        let mut auditors = Auditors::default();
        ids.iter().try_for_each(|id| auditors.add(id))?;
        self.audit = Some(AuditSettings { listen, auditors });
        Ok(self)
    }

    /// Serves the public files on these addresses, under TLS and in clear.
    #[must_use]
    pub fn with_public(mut self, https: Option<SocketAddr>, http: Option<SocketAddr>) -> Self {
        self.public = PublicSettings { https, http };
        self
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// What changed against `other`, by key: what a reload cannot take over.
    pub(crate) fn differences_that_need_a_restart(&self, other: &Self) -> Vec<&'static str> {
        let mut keys = Vec::new();
        let mut note = |differs: bool, key| {
            if differs {
                keys.push(key);
            }
        };
        note(self.trust_domain != other.trust_domain, "trust_domain");
        note(self.data_dir != other.data_dir, "data_dir");
        note(self.replica != other.replica, "replica");
        note(self.listen != other.listen, "listen");
        note(self.metrics != other.metrics, "metrics");
        note(self.passphrase_file != other.passphrase_file, "passphrase_file");
        note(self.jwt_rsa_key_file != other.jwt_rsa_key_file, "ca.jwt_rsa_key_file");
        note(self.chain != other.chain, "ca.chain");
        note(self.strict_csr != other.strict_csr, "ca.strict_csr");
        note(self.policy.allow_rsa != other.policy.allow_rsa, "ca.allow_rsa");
        note(self.crls != other.crls, "ca.crl_validity or ca.crl_reasons");
        note(self.advertise != other.advertise, "advertise");
        note(
            self.checkpoint_interval != other.checkpoint_interval,
            "ledger.checkpoint_interval",
        );
        note(self.max_unwitnessed != other.max_unwitnessed, "ledger.max_unwitnessed");
        note(self.exit_after != other.exit_after, "ledger.exit_after");
        note(self.shards.monthly != other.shards.monthly, "ledger.shards");
        note(self.shards.retain != other.shards.retain, "ledger.retain");
        note(self.upload != other.upload, "ledger.upload");
        note(self.witnesses != other.witnesses, "witness");
        note(self.audit != other.audit, "audit");
        note(self.public != other.public, "public");
        keys
    }
}

struct Checker<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Checker<'_> {
    fn check(&self, raw: RawConfig) -> Result<Config, ConfigError> {
        let data_dir = raw.data_dir.ok_or_else(|| {
            ConfigError(TomlProblem::of_file(
                self.file,
                "data_dir is missing: name the directory that `init` made",
            ))
        })?;
        let mut config = Config::for_data_dir(data_dir);
        config.trust_domain = self.map(raw.trust_domain, TrustDomain::parse)?;
        config.replica = self.map(raw.replica, ReplicaName::parse)?;
        if let Some(listen) = self.map(raw.listen, |text| address("listen", text))? {
            config.listen = listen;
        }
        config.metrics = self.map(raw.metrics, |text| loopback("metrics", text))?;
        config.advertise = self.advertise(raw.advertise)?;
        config.passphrase_file = raw.passphrase_file;
        if let Some(chain) = self.map(raw.ca.chain, chain_mode)? {
            config.chain = chain;
        }
        if let Some(ttl) = self.map(raw.ca.max_ttl, Ttl::parse)? {
            config.policy.max_ttl = ttl;
        }
        if let Some(ttl) = self.map(raw.ca.agent_ttl, Ttl::parse)? {
            config.policy.agent_ttl = ttl;
        }
        if let Some(ttl) = self.map(raw.ca.jwt_ttl, Ttl::parse)? {
            config.policy.jwt_ttl = ttl;
        }
        config.jwt_rsa_key_file = raw.ca.jwt_rsa_key_file;
        config.policy.allow_rsa = raw.ca.allow_rsa;
        config.policy.rotate_keys = raw.ca.rotate_keys.unwrap_or(config.policy.rotate_keys);
        config.strict_csr = raw.ca.strict_csr;
        config.crls.reasons = raw.ca.crl_reasons;
        if let Some(validity) = self.map(raw.ca.crl_validity, CrlSettings::parse_validity)? {
            config.crls.validity = validity;
        }
        if let Some(interval) = self.map(raw.ledger.checkpoint_interval, checkpoint_interval)? {
            config.checkpoint_interval = interval;
        }
        if let Some(longest) = self.map(raw.ledger.max_unwitnessed, max_unwitnessed)? {
            config.max_unwitnessed = longest;
        }
        if let Some(after) = self.map(raw.ledger.exit_after, exit_after)? {
            config.exit_after = after;
        }
        if let Some(monthly) = self.map(raw.ledger.shards, shards_monthly)? {
            config.shards.monthly = monthly;
        }
        if let Some(retain) = self.map(raw.ledger.retain, retain)? {
            config.shards.retain = retain;
        }
        let upload = raw.ledger.upload.map(RawUpload::check).transpose();
        config.upload = upload.map_err(|(at, told)| self.at(&at, &told))?;
        config.witnesses = self.witnesses(raw.witness)?;
        config.audit = raw.audit.map(|audit| self.audit(audit)).transpose()?;
        config.public = raw
            .public
            .map(|public| self.public(public))
            .transpose()?
            .unwrap_or_default();
        Ok(config)
    }

    fn audit(&self, raw: RawAudit) -> Result<AuditSettings, ConfigError> {
        let listen =
            address("audit.listen", raw.listen.get_ref()).map_err(|told| self.at(&raw.listen.span(), &told))?;
        let mut auditors = Auditors::default();
        let at = raw.auditors.span();
        for text in raw.auditors.into_inner() {
            let add = auditors.add(text.get_ref());
            add.map_err(|told| self.at(&text.span(), &told))?;
        }
        if auditors.is_empty() {
            let told = "audit.auditors names nobody: name the SPIFFE IDs that may read, or leave out [audit]";
            return Err(self.at(&at, &told));
        }
        Ok(AuditSettings { listen, auditors })
    }

    fn public(&self, raw: RawPublic) -> Result<PublicSettings, ConfigError> {
        let https = self.map(raw.https, |text| address("public.https", text))?;
        let http = self.map(raw.http, |text| address("public.http", text))?;
        if https.is_none() && http.is_none() {
            let told = "public: name an address as https or http, or leave out [public]";
            return Err(ConfigError(TomlProblem::of_file(self.file, told)));
        }
        Ok(PublicSettings { https, http })
    }

    fn witnesses(&self, list: Vec<RawWitness>) -> Result<Vec<WitnessPeer>, ConfigError> {
        let mut peers: Vec<WitnessPeer> = Vec::new();
        for raw in list {
            let at = raw.vkey.span();
            let url = SubmissionPrefix::parse(raw.url.get_ref()).map_err(|told| self.at(&raw.url.span(), &told))?;
            let key = parse_key(raw.vkey.get_ref()).map_err(|told| self.at(&at, &told))?;
            if peers.iter().any(|known| known.key.name() == key.name()) {
                let told = format!("witness.vkey: the name {:?} is listed twice", key.name());
                return Err(self.at(&at, &told));
            }
            if peers.len() >= WITNESSES_MAX {
                let told = format!("witness: at most {WITNESSES_MAX} witnesses are asked");
                return Err(self.at(&at, &told));
            }
            peers.push(WitnessPeer { url, key });
        }
        Ok(peers)
    }

    fn map<T, E: std::fmt::Display>(
        &self,
        value: Option<Spanned<String>>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>, ConfigError> {
        value
            .map(|value| parse(value.get_ref()).map_err(|error| self.at(&value.span(), &error)))
            .transpose()
    }

    fn advertise(&self, value: Option<Spanned<Vec<String>>>) -> Result<Vec<String>, ConfigError> {
        let Some(value) = value else { return Ok(Vec::new()) };
        let span = value.span();
        let list = value.into_inner();
        if list.is_empty() || list.len() > ADVERTISE_MAX {
            let text = format!(
                "advertise has {} addresses, 1 to {ADVERTISE_MAX} fit into a join token",
                list.len()
            );
            return Err(self.at(&span, &text));
        }
        if let Some(bad) = list.iter().find(|a| {
            a.rsplit_once(':')
                .is_none_or(|(h, p)| h.is_empty() || p.parse::<u16>().is_err())
        }) {
            return Err(self.at(&span, &format!("advertise: {bad:?} is no host:port")));
        }
        Ok(list)
    }

    fn at(&self, span: &Range<usize>, message: &impl std::fmt::Display) -> ConfigError {
        ConfigError(TomlProblem::at(self.file, self.text, span, message))
    }
}

fn address(field: &str, text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("{field}: {text:?} is no address and port; write 0.0.0.0:8443 or [::]:8443"))
}

fn loopback(field: &str, text: &str) -> Result<SocketAddr, String> {
    let address = address(field, text)?;
    match address.ip().is_loopback() {
        true => Ok(address),
        false => Err(format!(
            "{field}: {text} is no loopback address; metrics are served to this machine alone"
        )),
    }
}

/// Checks an address for metrics given on a command line.
///
/// # Errors
/// Refuses what is no address and port, and addresses other than loopback.
pub fn parse_metrics_address(text: &str) -> Result<SocketAddr, String> {
    loopback("metrics", text)
}

fn chain_mode(text: &str) -> Result<ChainMode, String> {
    match text {
        "intermediate" => Ok(ChainMode::Intermediate),
        "root" => Ok(ChainMode::Root),
        other => Err(format!("ca.chain: {other:?} is neither \"intermediate\" nor \"root\"")),
    }
}

fn checkpoint_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration("ledger.checkpoint_interval", text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_millis(100)..=Duration::from_secs(60);
    match allowed.contains(&interval) {
        true => Ok(interval),
        false => Err(format!(
            "ledger.checkpoint_interval: {text} is out of range; allowed are 100ms to 60s"
        )),
    }
}

fn shards_monthly(text: &str) -> Result<bool, String> {
    match text {
        "monthly" => Ok(true),
        "manual" => Ok(false),
        other => Err(format!(
            "ledger.shards: {other:?} is neither \"monthly\" nor \"manual\""
        )),
    }
}

fn retain(text: &str) -> Result<Option<Duration>, String> {
    if text == "forever" {
        return Ok(None);
    }
    let age = parse_duration("ledger.retain", text).map_err(|error| error.to_string())?;
    let day = Duration::from_secs(86_400);
    match (day..=day * 36_525).contains(&age) {
        true => Ok(Some(age)),
        false => Err(format!(
            "ledger.retain: {text} is out of range; allowed are \"forever\" and 24h to 876600h (a hundred years)"
        )),
    }
}

fn max_unwitnessed(text: &str) -> Result<Duration, String> {
    let longest = parse_duration("ledger.max_unwitnessed", text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_secs(1)..=Duration::from_secs(86_400);
    match allowed.contains(&longest) {
        true => Ok(longest),
        false => Err(format!(
            "ledger.max_unwitnessed: {text} is out of range; allowed are 1s to 24h"
        )),
    }
}

fn exit_after(text: &str) -> Result<Duration, String> {
    let after = parse_duration("ledger.exit_after", text).map_err(|error| error.to_string())?;
    match after <= Duration::from_secs(600) {
        true => Ok(after),
        false => Err(format!(
            "ledger.exit_after: {text} is out of range; allowed are 0s to 600s"
        )),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
