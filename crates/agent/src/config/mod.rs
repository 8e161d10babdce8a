//! What an operator decides about one agent. A file is read into a raw form that knows every key, then into this one,
//! whose values are valid for as long as they live.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Component, Path, PathBuf},
};

use mintage_identity::EntryName;

use crate::{
    AgentError,
    layout::{Layout, StorePassword},
    limits::{ADDRESSES_MAX, DELIVERIES_MAX, HOOKS_PER_DELIVERY_MAX},
};

mod accounts;
mod fixed;
pub(crate) mod hook;
mod lookup;
mod problem;
mod raw;
mod raw_hook;
mod sds;
mod socket_limits;

pub use accounts::Accounts;
pub use hook::{Effect, EffectProtocol, Hook, HookAction, HookSignal, SignalTarget, UnitJob, Window};
pub use lookup::{LookupRules, WithoutCertificate};
pub use problem::TomlProblem;
pub use sds::{Sds, Validator};
pub use socket_limits::{SocketLimit, SocketLimits};

/// Where the socket of the Workload API stands unless the configuration says otherwise.
pub const SOCKET_DEFAULT: &str = "/run/mintage/agent.sock";
/// Mode of a delivered key unless the configuration says otherwise.
pub const MODE_DEFAULT: u32 = 0o600;
/// The bits a delivered key's mode may have: the owner reads (and writes), the group reads.
const MODE_BITS: u32 = 0o640;

/// One identity on disk: which entry, into which folder, for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    entry: EntryName,
    directory: PathBuf,
    owner: u32,
    group: u32,
    mode: u32,
    layout: Layout,
    password: Option<StorePassword>,
    receipt: bool,
    crl: bool,
    /// None: as the layout has it.
    federated: Option<bool>,
    hooks: Vec<Hook>,
    window: Option<Window>,
    effect: Option<Effect>,
}

impl Delivery {
    /// A delivery of `entry` into `directory` with the default layout, owned by this process's user, key mode 0600.
    ///
    /// # Errors
    /// Refuses a directory that is not absolute, has `.` or `..` parts, or is the root.
    pub fn new(entry: EntryName, directory: impl Into<PathBuf>) -> Result<Self, AgentError> {
        let directory = directory.into();
        check_absolute("delivery directory", &directory).map_err(AgentError::Config)?;
        Ok(Self {
            entry,
            directory,
            owner: mintage_sys::process::effective_uid(),
            group: mintage_sys::process::effective_gid(),
            mode: MODE_DEFAULT,
            layout: Layout::default(),
            password: None,
            receipt: false,
            crl: false,
            federated: None,
            hooks: Vec::new(),
            window: None,
            effect: None,
        })
    }

    /// The same delivery for another owner and group, by number.
    #[must_use]
    pub fn with_owner(mut self, owner: u32, group: u32) -> Self {
        (self.owner, self.group) = (owner, group);
        self
    }

    /// The same delivery with another mode of the key file.
    ///
    /// # Errors
    /// Refuses modes that let others read the key, or that keep its owner from reading it.
    pub fn with_mode(mut self, mode: u32) -> Result<Self, AgentError> {
        check_mode(mode).map_err(AgentError::Config)?;
        self.mode = mode;
        Ok(self)
    }

    /// The same delivery with other file names.
    #[must_use]
    pub fn with_layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// The same delivery with stores under this password.
    #[must_use]
    pub fn with_password(mut self, password: Option<StorePassword>) -> Self {
        self.password = password;
        self
    }

    /// The same delivery with, or without, `svid.tlog-proof` beside each certificate.
    #[must_use]
    pub fn with_receipt(mut self, receipt: bool) -> Self {
        self.receipt = receipt;
        self
    }

    /// The same delivery with, or without, the CA's lists of revoked certificates.
    #[must_use]
    pub fn with_crl(mut self, crl: bool) -> Self {
        self.crl = crl;
        self
    }

    /// The same delivery with, or without, the roots of other trust domains that its entry federates with.
    #[must_use]
    pub fn with_federated(mut self, federated: bool) -> Self {
        self.federated = Some(federated);
        self
    }

    /// The same delivery with this done, in this order, after each change.
    ///
    /// # Errors
    /// Refuses more than eight hooks, and names, paths and times that cannot be meant.
    pub fn with_hooks(mut self, hooks: Vec<Hook>) -> Result<Self, AgentError> {
        if hooks.len() > HOOKS_PER_DELIVERY_MAX {
            let given = hooks.len();
            return Err(AgentError::Config(format!(
                "{given} hooks are given, the limit is {HOOKS_PER_DELIVERY_MAX}"
            )));
        }
        hooks.iter().try_for_each(Hook::check).map_err(AgentError::Config)?;
        self.hooks = hooks;
        Ok(self)
    }

    /// The same delivery with hooks run in these hours alone, unless what is served would end.
    #[must_use]
    pub fn with_window(mut self, window: Option<Window>) -> Self {
        self.window = window;
        self
    }

    /// The same delivery with a look, after the hooks, at what is served.
    #[must_use]
    pub fn with_effect(mut self, effect: Option<Effect>) -> Self {
        self.effect = effect;
        self
    }

    /// The entry whose identity is delivered.
    pub fn entry(&self) -> &EntryName {
        &self.entry
    }

    /// The folder that is swapped as a whole.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Numeric owner of the files: what the delivery proves about its workload.
    pub fn owner(&self) -> u32 {
        self.owner
    }

    /// Numeric group of the files.
    pub fn group(&self) -> u32 {
        self.group
    }

    /// Permission bits of every file that holds the key.
    pub fn mode(&self) -> u32 {
        self.mode
    }

    /// Names and contents of the files.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// What the stores of the layouts `pkcs12` and `jks` are opened with.
    pub(crate) fn password(&self) -> Option<&StorePassword> {
        self.password.as_ref()
    }

    /// The proof that the CA's ledger holds the certificate is written beside it, a second or so later; off by default.
    pub fn receipt(&self) -> bool {
        self.receipt
    }

    /// What is done after each change, in this order.
    pub fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    /// When hooks run; `None` for always.
    pub fn window(&self) -> Option<Window> {
        self.window
    }

    /// Where the new certificate must be served after a change.
    pub fn effect(&self) -> Option<&Effect> {
        self.effect.as_ref()
    }

    /// True when a change asks for more than the folder.
    pub(crate) fn acts(&self) -> bool {
        !self.hooks.is_empty() || self.effect.is_some()
    }

    /// The CA's lists of revoked certificates are written beside the bundle; off by default, because each revocation in the
    /// trust domain is then a swap of the folder.
    pub fn crl(&self) -> bool {
        self.crl
    }

    /// The roots of other trust domains that the entry federates with are written beside the bundle, a file for each; on by
    /// default in the layout `spiffe` alone, which has names for them.
    pub fn federated(&self) -> bool {
        self.federated.unwrap_or(self.layout.is_federated())
    }
}

/// A whole, valid configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    data_dir: PathBuf,
    socket: Option<PathBuf>,
    metrics: Option<SocketAddr>,
    ca_addresses: Vec<String>,
    revocation_map: Option<PathBuf>,
    lookup: LookupRules,
    bundle_map: Option<PathBuf>,
    sds: Sds,
    limits: SocketLimits,
    keep: bool,
    deliveries: Vec<Delivery>,
}

impl Config {
    /// The defaults: the socket at its default place, no metrics, no map, no deliveries.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            socket: Some(SOCKET_DEFAULT.into()),
            metrics: None,
            ca_addresses: Vec::new(),
            revocation_map: None,
            lookup: LookupRules::default(),
            bundle_map: None,
            sds: Sds::default(),
            limits: SocketLimits::default(),
            keep: true,
            deliveries: Vec::new(),
        }
    }

    /// Reads a file; `data_dir`, when given, stands in for the file's own.
    ///
    /// # Errors
    /// Everything wrong with the file's text, each with file and line; or that it cannot be read.
    pub fn load(file: &Path, data_dir: Option<&Path>, accounts: &Accounts) -> Result<Self, AgentError> {
        let text = raw::read(file)?;
        Self::parse(file, &text, data_dir, accounts)
    }

    /// As [`Config::load`], from text; `file` is for messages.
    ///
    /// # Errors
    /// Everything wrong with the text, each with file and line.
    pub fn parse(file: &Path, text: &str, data_dir: Option<&Path>, accounts: &Accounts) -> Result<Self, AgentError> {
        raw::parse(file, text, data_dir, accounts).map_err(AgentError::ConfigFile)
    }

    /// The same with the socket elsewhere, or none.
    #[must_use]
    pub fn with_socket(mut self, socket: Option<PathBuf>) -> Self {
        self.socket = socket;
        self
    }

    /// The same with liveness, readiness and metrics on this address.
    ///
    /// # Errors
    /// Refuses an address that is not loopback: the page names what runs on this node.
    pub fn with_metrics(mut self, address: SocketAddr) -> Result<Self, AgentError> {
        check_loopback(address).map_err(AgentError::Config)?;
        self.metrics = Some(address);
        Ok(self)
    }

    /// The same with the node's revocation map at this path.
    ///
    /// # Errors
    /// Refuses a path that is not absolute, or that is the bundle map's.
    pub fn with_revocation_map(mut self, path: impl Into<PathBuf>) -> Result<Self, AgentError> {
        let path = path.into();
        check_absolute("revocation map", &path).map_err(AgentError::Config)?;
        if let Some(bundle_map) = &self.bundle_map {
            check_maps(Some(&path), bundle_map).map_err(AgentError::Config)?;
        }
        self.revocation_map = Some(path);
        Ok(self)
    }

    /// The same with other rules for look-ups on the socket.
    #[must_use]
    pub fn with_lookup(mut self, lookup: LookupRules) -> Self {
        self.lookup = lookup;
        self
    }

    /// The same with the SPIFFE bundle map, for Envoy's `trust_bundles`, at this path.
    ///
    /// # Errors
    /// Refuses a path that is not absolute, or that is the revocation map's.
    pub fn with_bundle_map(mut self, path: impl Into<PathBuf>) -> Result<Self, AgentError> {
        let path = path.into();
        check_absolute("bundle map", &path).map_err(AgentError::Config)?;
        check_maps(self.revocation_map.as_deref(), &path).map_err(AgentError::Config)?;
        self.bundle_map = Some(path);
        Ok(self)
    }

    /// The same with these settings of SDS.
    #[must_use]
    pub fn with_sds(mut self, sds: Sds) -> Self {
        self.sds = sds;
        self
    }

    /// The same with other limits for callers of the socket.
    #[must_use]
    pub fn with_limits(mut self, limits: SocketLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The same with what callers of the socket are served kept on disk, or in memory alone.
    #[must_use]
    pub fn with_kept_workloads(mut self, keep: bool) -> Self {
        self.keep = keep;
        self
    }

    /// The same with other CA addresses than the join token named.
    ///
    /// # Errors
    /// Refuses text that is no `host:port`, and more than 32 of them.
    pub fn with_ca_addresses(mut self, addresses: Vec<String>) -> Result<Self, AgentError> {
        check_addresses(&addresses).map_err(AgentError::Config)?;
        self.ca_addresses = addresses;
        Ok(self)
    }

    /// The same with these deliveries.
    ///
    /// # Errors
    /// Refuses two deliveries into one folder, one folder within another, one within the data directory, and more
    /// than 4,096.
    pub fn with_deliveries(mut self, deliveries: Vec<Delivery>) -> Result<Self, AgentError> {
        check_folders(&self.data_dir, &deliveries).map_err(|(_, problem)| AgentError::Config(problem))?;
        deliveries
            .iter()
            .try_for_each(|delivery| check_password(delivery.layout, delivery.password.is_some()))
            .map_err(AgentError::Config)?;
        self.deliveries = deliveries;
        Ok(self)
    }

    /// How look-ups on the socket are answered.
    pub fn lookup(&self) -> LookupRules {
        self.lookup
    }

    /// Where the agent keeps its own key and what must survive a restart.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Where the Workload API is served; `None` when it is off.
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// Where `/live`, `/ready` and `/metrics` are served.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// CA addresses that stand in for those of the join token; usually empty.
    pub fn ca_addresses(&self) -> &[String] {
        &self.ca_addresses
    }

    /// Where the node's revocation map is written.
    pub fn revocation_map(&self) -> Option<&Path> {
        self.revocation_map.as_deref()
    }

    /// Where the SPIFFE bundle map is written.
    pub fn bundle_map(&self) -> Option<&Path> {
        self.bundle_map.as_deref()
    }

    /// How SDS is answered on the socket.
    pub fn sds(&self) -> &Sds {
        &self.sds
    }

    /// How much callers of the socket may hold.
    pub fn limits(&self) -> SocketLimits {
        self.limits
    }

    /// What callers of the socket are served survives a restart, in the data directory.
    pub fn keeps_workloads(&self) -> bool {
        self.keep
    }

    /// The identities on disk.
    pub fn deliveries(&self) -> &[Delivery] {
        &self.deliveries
    }
}

fn check_absolute(field: &str, path: &Path) -> Result<(), String> {
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if path.is_absolute() && plain && path.parent().is_some() && !path.as_os_str().as_encoded_bytes().contains(&0) {
        return Ok(());
    }
    Err(format!(
        "{field} {:?} must be an absolute path without . and .. parts",
        path.display().to_string()
    ))
}

/// Two maps at one path would take turns.
fn check_maps(revocation_map: Option<&Path>, bundle_map: &Path) -> Result<(), String> {
    match revocation_map == Some(bundle_map) {
        true => Err(format!(
            "bundle map {:?} is the revocation map's path too; use another",
            bundle_map.display().to_string()
        )),
        false => Ok(()),
    }
}

fn check_mode(mode: u32) -> Result<(), String> {
    if mode & !MODE_BITS == 0 && mode & 0o400 != 0 {
        return Ok(());
    }
    Err(format!(
        "mode {mode:04o} is not for a private key; use 0600, 0640, 0400 or 0440"
    ))
}

/// A store is under a password, and nothing else is.
fn check_password(layout: Layout, given: bool) -> Result<(), String> {
    match (layout.has_password(), given) {
        (true, false) => Err(
            "the layouts pkcs12 and jks need password_file, a file of mode 0600 with the stores' password".to_owned(),
        ),
        (false, true) => Err("password_file goes with the layouts pkcs12 and jks alone".to_owned()),
        _ => Ok(()),
    }
}

fn check_loopback(address: SocketAddr) -> Result<(), String> {
    if address.ip().is_loopback() {
        return Ok(());
    }
    Err(format!(
        "metrics address {address} is not loopback; use 127.0.0.1:PORT or [::1]:PORT"
    ))
}

fn check_addresses(addresses: &[String]) -> Result<(), String> {
    if addresses.len() > ADDRESSES_MAX {
        return Err(format!(
            "{} CA addresses are given, the limit is {ADDRESSES_MAX}",
            addresses.len()
        ));
    }
    addresses.iter().try_for_each(|address| check_address(address))
}

/// `host:port` with a name, an IPv4 address or a bracketed IPv6 address.
pub(crate) fn check_address(address: &str) -> Result<(), String> {
    let refuse = || Err(format!("CA address {address:?} is not of the form host:port"));
    let Some((host, port)) = address.rsplit_once(':') else {
        return refuse();
    };
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let host_fits = match bracketed {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.len() <= 253 && host.chars().all(named),
    };
    if host_fits && port.parse::<u16>().is_ok_and(|port| port != 0) {
        return Ok(());
    }
    refuse()
}

/// Checks the folders against one another; a problem comes with the index of the delivery that has it.
fn check_folders(data_dir: &Path, deliveries: &[Delivery]) -> Result<(), (usize, String)> {
    if deliveries.len() > DELIVERIES_MAX {
        let problem = format!(
            "{} deliveries are given, the limit is {DELIVERIES_MAX}",
            deliveries.len()
        );
        return Err((DELIVERIES_MAX, problem));
    }
    let data_dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let mut folders: BTreeMap<&Path, &EntryName> = BTreeMap::new();
    for (at, delivery) in deliveries.iter().enumerate() {
        let folder = delivery.directory.as_path();
        if folder.starts_with(&data_dir) || data_dir.starts_with(folder) {
            let problem = format!("delivery directory {} and the data directory overlap", folder.display());
            return Err((at, problem));
        }
        if let Some(other) = folders.insert(folder, &delivery.entry) {
            let problem = format!(
                "delivery directory {} is given twice, for the entries {other} and {}",
                folder.display(),
                delivery.entry
            );
            return Err((at, problem));
        }
    }
    for (at, delivery) in deliveries.iter().enumerate() {
        let outer = delivery
            .directory
            .ancestors()
            .skip(1)
            .find(|up| folders.contains_key(up));
        if let Some(outer) = outer {
            let problem = format!(
                "delivery directory {} lies within the delivery directory {}",
                delivery.directory.display(),
                outer.display()
            );
            return Err((at, problem));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
