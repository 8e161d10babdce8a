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
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawCa {
    chain: Option<Spanned<String>>,
    max_ttl: Option<Spanned<String>>,
    agent_ttl: Option<Spanned<String>>,
    #[serde(default)]
    allow_rsa: bool,
    #[serde(default)]
    strict_csr: bool,
    rotate_keys: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLedger {
    checkpoint_interval: Option<Spanned<String>>,
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
    pub(crate) chain: ChainMode,
    pub(crate) policy: IssuancePolicy,
    pub(crate) strict_csr: bool,
    pub(crate) checkpoint_interval: Duration,
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
            chain: ChainMode::default(),
            policy: IssuancePolicy::default(),
            strict_csr: false,
            checkpoint_interval: Duration::from_secs(1),
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
        note(self.chain != other.chain, "ca.chain");
        note(self.strict_csr != other.strict_csr, "ca.strict_csr");
        note(self.policy.allow_rsa != other.policy.allow_rsa, "ca.allow_rsa");
        note(self.advertise != other.advertise, "advertise");
        note(
            self.checkpoint_interval != other.checkpoint_interval,
            "ledger.checkpoint_interval",
        );
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
        config.policy.allow_rsa = raw.ca.allow_rsa;
        config.policy.rotate_keys = raw.ca.rotate_keys.unwrap_or(config.policy.rotate_keys);
        config.strict_csr = raw.ca.strict_csr;
        if let Some(interval) = self.map(raw.ledger.checkpoint_interval, checkpoint_interval)? {
            config.checkpoint_interval = interval;
        }
        Ok(config)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        Config::parse(Path::new("ca.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn the_sample_in_deploy_parses() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/ca.toml");
        let config = Config::load(&file).unwrap();
        assert_eq!(config.trust_domain.unwrap().as_str(), "example.org");
    }

    #[test]
    fn unknown_keys_are_refused_with_line_and_nearest_key() {
        let text = refusal("data_dir = \"/x\"\n\nlissten = \"0.0.0.0:1\"\n");
        assert!(text.contains("ca.toml:3") && text.contains("listen"), "{text}");
        let text = refusal("data_dir = \"/x\"\n[ca]\nmax_tll = \"1h\"\n");
        assert!(text.contains("ca.toml:3") && text.contains("max_ttl"), "{text}");
    }

    #[test]
    fn wrong_types_duplicates_and_ranges_are_refused_with_their_line() {
        for (text, line, word) in [
            ("data_dir = 3\n", 1, "string"),
            ("data_dir = \"/x\"\ndata_dir = \"/y\"\n", 2, "duplicate"),
            ("data_dir = \"/x\"\n[ca]\nmax_ttl = \"0s\"\n", 3, "range"),
            ("data_dir = \"/x\"\n[ca]\nmax_ttl = \"99999999h\"\n", 3, "range"),
            ("data_dir = \"/x\"\n[ca]\nmax_ttl = 600\n", 3, "string"),
            ("data_dir = \"/x\"\nmetrics = \"0.0.0.0:9100\"\n", 2, "loopback"),
            ("data_dir = \"/x\"\nlisten = \"nowhere\"\n", 2, "address"),
            ("data_dir = \"/x\"\nadvertise = []\n", 2, "advertise"),
            ("data_dir = \"/x\"\n[ca]\nchain = \"leaf\"\n", 3, "intermediate"),
            ("data_dir = \"/x\"\ntrust_domain = \"Example.org\"\n", 2, "upper-case"),
            (
                "data_dir = \"/x\"\n[ledger]\ncheckpoint_interval = \"1ms\"\n",
                3,
                "range",
            ),
        ] {
            let told = refusal(text);
            assert!(
                told.contains(&format!("ca.toml:{line}")) && told.contains(word),
                "{text:?} -> {told}"
            );
        }
        assert!(refusal("").contains("data_dir is missing"));
    }

    #[test]
    fn a_reload_names_what_it_cannot_take_over() {
        let one = Config::for_data_dir("/x");
        let mut two = one.clone();
        two.policy.max_ttl = Ttl::DEFAULT;
        assert!(one.differences_that_need_a_restart(&two).is_empty());
        two.listen = "127.0.0.1:1".parse().unwrap();
        assert_eq!(one.differences_that_need_a_restart(&two), ["listen"]);
    }
}
