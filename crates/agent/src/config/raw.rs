//! The file's own form: every key is known, every unknown one refused with its line and the nearest valid key.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use mintage_identity::EntryName;
use mintage_sys::{secret_file, text_file};
use serde::Deserialize;
use toml::Spanned;

use super::{
    Accounts, Config, Delivery, LookupRules, SocketLimit, SocketLimits, TomlProblem, Validator, Window, check_absolute,
    check_address, check_folders, check_loopback, check_maps, check_mode, check_password, lookup,
    raw_hook::{RawEffect, RawHook},
    sds::{Name, Sds},
};
use crate::{
    AgentError,
    layout::{Layout, StorePassword},
    limits::{ADDRESSES_MAX, CONFIG_BYTES_MAX, HOOKS_PER_DELIVERY_MAX, STORE_PASSWORD_BYTES_MAX},
};

/// What the socket key says to turn the socket off.
const OFF: &str = "off";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    data_dir: Option<Spanned<PathBuf>>,
    socket: Option<Spanned<PathBuf>>,
    metrics: Option<Spanned<String>>,
    ca_addresses: Option<Vec<Spanned<String>>>,
    revocation_map: Option<RawMap>,
    lookup: Option<RawLookup>,
    bundle_map: Option<RawMap>,
    sds: Option<RawSds>,
    limits: Option<RawLimits>,
    workload: Option<RawWorkload>,
    #[serde(default)]
    delivery: Vec<RawDelivery>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMap {
    path: Spanned<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLookup {
    freshness: Option<Spanned<String>>,
    without_certificate: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSds {
    svid_name: Option<Spanned<String>>,
    bundle_name: Option<Spanned<String>>,
    all_bundles_name: Option<Spanned<String>>,
    validator: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWorkload {
    keep: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    connections: Option<Spanned<u64>>,
    connections_per_user: Option<Spanned<u64>>,
    streams: Option<Spanned<u64>>,
    streams_per_user: Option<Spanned<u64>>,
    streams_per_connection: Option<Spanned<u64>>,
    identities: Option<Spanned<u64>>,
    unread_s: Option<Spanned<u64>>,
}

impl RawLimits {
    fn given(&self, limit: SocketLimit) -> Option<&Spanned<u64>> {
        match limit {
            SocketLimit::Connections => self.connections.as_ref(),
            SocketLimit::ConnectionsPerUser => self.connections_per_user.as_ref(),
            SocketLimit::Streams => self.streams.as_ref(),
            SocketLimit::StreamsPerUser => self.streams_per_user.as_ref(),
            SocketLimit::StreamsPerConnection => self.streams_per_connection.as_ref(),
            SocketLimit::Identities => self.identities.as_ref(),
            SocketLimit::UnreadSeconds => self.unread_s.as_ref(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDelivery {
    entry: Spanned<String>,
    directory: Spanned<PathBuf>,
    owner: Option<Spanned<Account>>,
    group: Option<Spanned<Account>>,
    mode: Option<Spanned<String>>,
    layout: Option<Spanned<String>>,
    password_file: Option<Spanned<PathBuf>>,
    #[serde(default)]
    receipt: bool,
    #[serde(default)]
    crl: bool,
    federated: Option<bool>,
    #[serde(default)]
    hook: Vec<Spanned<RawHook>>,
    hook_window: Option<Spanned<String>>,
    effect: Option<Spanned<RawEffect>>,
}

/// A name or a number.
#[derive(Clone, Deserialize)]
#[serde(untagged, expecting = "a user or group: its name or its number")]
pub(super) enum Account {
    Number(u32),
    Name(String),
}

impl Account {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Name(name) => name.clone(),
        }
    }
}

/// Reads the file's text within its limit.
pub(super) fn read(file: &Path) -> Result<String, AgentError> {
    text_file::read(file, CONFIG_BYTES_MAX)
        .map_err(|problem| AgentError::ConfigFile(TomlProblem::of_file(file, problem)))
}

pub(super) fn parse(
    file: &Path,
    text: &str,
    data_dir: Option<&Path>,
    accounts: &Accounts,
) -> Result<Config, TomlProblem> {
    let raw: RawConfig = toml::from_str(text).map_err(|error| TomlProblem::from_toml(file, text, &error))?;
    let reader = Reader { file, text, accounts };
    let data_dir = match (data_dir, &raw.data_dir) {
        (Some(given), _) => given.to_owned(),
        (None, Some(own)) => {
            reader.on(own, |path| check_absolute("data_dir", path))?;
            own.get_ref().clone()
        }
        (None, None) => {
            let problem = "data_dir is missing; write it here or give --data-dir";
            return Err(TomlProblem::of_file(file, problem));
        }
    };
    let mut config = Config::new(data_dir);
    if let Some(socket) = &raw.socket {
        config.socket = match socket.get_ref() {
            path if path.as_os_str() == OFF => None,
            path => {
                reader.on(socket, |path| check_absolute("socket (or \"off\")", path))?;
                Some(path.clone())
            }
        };
    }
    if let Some(metrics) = &raw.metrics {
        config.metrics = Some(reader.on(metrics, |text| {
            let address: SocketAddr = text
                .parse()
                .map_err(|_| format!("metrics address {text:?} is not of the form 127.0.0.1:PORT"))?;
            check_loopback(address).map(|()| address)
        })?);
    }
    for address in raw.ca_addresses.iter().flatten() {
        reader.on(address, |text| check_address(text))?;
        if config.ca_addresses.len() == ADDRESSES_MAX {
            let problem = format!("more than {ADDRESSES_MAX} CA addresses are given");
            return Err(TomlProblem::at(file, text, &address.span(), problem));
        }
        config.ca_addresses.push(address.get_ref().clone());
    }
    if let Some(map) = &raw.revocation_map {
        reader.on(&map.path, |path| check_absolute("revocation_map.path", path))?;
        config.revocation_map = Some(map.path.get_ref().clone());
    }
    if let Some(lookup) = &raw.lookup {
        config.lookup = reader.lookup(lookup)?;
    }
    if let Some(map) = &raw.bundle_map {
        reader.on(&map.path, |path| {
            check_absolute("bundle_map.path", path)?;
            check_maps(config.revocation_map.as_deref(), path)
        })?;
        config.bundle_map = Some(map.path.get_ref().clone());
    }
    if let Some(sds) = &raw.sds {
        config.sds = reader.sds(sds)?;
    }
    if let Some(limits) = &raw.limits {
        config.limits = reader.limits(limits)?;
    }
    config.keep = raw.workload.as_ref().and_then(|workload| workload.keep).unwrap_or(true);
    for delivery in &raw.delivery {
        config.deliveries.push(reader.delivery(delivery)?);
    }
    check_folders(&config.data_dir, &config.deliveries).map_err(|(at, problem)| {
        let span = raw.delivery[at.min(raw.delivery.len() - 1)].directory.span();
        TomlProblem::at(file, text, &span, problem)
    })?;
    Ok(config)
}

struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
    accounts: &'a Accounts,
}

impl Reader<'_> {
    /// Applies `read` to a value; a refusal gets the value's line.
    fn on<T, R, E: std::fmt::Display>(
        &self,
        value: &Spanned<T>,
        read: impl FnOnce(&T) -> Result<R, E>,
    ) -> Result<R, TomlProblem> {
        read(value.get_ref()).map_err(|problem| TomlProblem::at(self.file, self.text, &value.span(), problem))
    }

    fn lookup(&self, raw: &RawLookup) -> Result<LookupRules, TomlProblem> {
        let mut rules = LookupRules::default();
        if let Some(text) = &raw.freshness {
            rules.freshness = self.on(text, |text| lookup::freshness(text))?;
        }
        if let Some(text) = &raw.without_certificate {
            rules.without_certificate = self.on(text, |text| lookup::without_certificate(text))?;
        }
        Ok(rules)
    }

    fn sds(&self, raw: &RawSds) -> Result<Sds, TomlProblem> {
        let mut sds = Sds::default();
        let names = [
            (Name::Svid, &raw.svid_name),
            (Name::Bundle, &raw.bundle_name),
            (Name::AllBundles, &raw.all_bundles_name),
        ];
        for (name, given) in names.iter().filter_map(|(name, given)| Some((*name, given.as_ref()?))) {
            self.on(given, |text| sds.set(name, text))?;
        }
        // Two that are alike were not both left out: the last one given is at fault.
        if let Some(given) = names.iter().rev().find_map(|(_, given)| given.as_ref()) {
            self.on(given, |_| sds.check_distinct())?;
        }
        match &raw.validator {
            Some(validator) => Ok(sds.with_validator(self.on(validator, |text| Validator::parse(text))?)),
            None => Ok(sds),
        }
    }

    fn limits(&self, raw: &RawLimits) -> Result<SocketLimits, TomlProblem> {
        let mut limits = SocketLimits::default();
        for limit in SocketLimit::ALL {
            if let Some(given) = raw.given(limit) {
                let value = self.on(given, |value| limit.check(*value))?;
                limits.set(limit, value);
            }
        }
        Ok(limits)
    }

    fn delivery(&self, raw: &RawDelivery) -> Result<Delivery, TomlProblem> {
        let entry = self.on(&raw.entry, |text| EntryName::parse(text))?;
        let mut delivery = self.on(&raw.directory, |path| Delivery::new(entry, path.clone()))?;
        if let Some(owner) = &raw.owner {
            let (uid, gid) = self.on(owner, |account| self.accounts.user(&account.text()))?;
            delivery.owner = uid;
            delivery.group = gid.unwrap_or(delivery.group);
        }
        if let Some(group) = &raw.group {
            delivery.group = self.on(group, |account| self.accounts.group(&account.text()))?;
        }
        if let Some(mode) = &raw.mode {
            delivery.mode = self.on(mode, |text| {
                let octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
                match u32::from_str_radix(text, 8) {
                    Ok(mode) if octal => check_mode(mode).map(|()| mode),
                    _ => Err(format!("mode {text:?} is no octal mode such as \"0600\"")),
                }
            })?;
        }
        if let Some(layout) = &raw.layout {
            delivery.layout = self.on(layout, |text| Layout::parse(text))?;
        }
        if let Some(file) = &raw.password_file {
            delivery.password = Some(self.on(file, |file| read_password(file))?);
        }
        self.on(&raw.directory, |_| {
            check_password(delivery.layout, delivery.password.is_some())
        })?;
        delivery.receipt = raw.receipt;
        delivery.crl = raw.crl;
        delivery.federated = raw.federated;
        for hook in &raw.hook {
            let read = self.on(hook, |raw| raw.read(self.accounts))?;
            delivery.hooks.push(read);
        }
        if let (Some(hook), true) = (raw.hook.last(), delivery.hooks.len() > HOOKS_PER_DELIVERY_MAX) {
            self.on(hook, |_| {
                Err::<(), _>(format!("a delivery has at most {HOOKS_PER_DELIVERY_MAX} hooks"))
            })?;
        }
        if let Some(window) = &raw.hook_window {
            delivery.window = Some(self.on(window, |text| Window::parse(text))?);
        }
        if let Some(effect) = &raw.effect {
            delivery.effect = Some(self.on(effect, RawEffect::read)?);
        }
        Ok(delivery)
    }
}

/// The first line of a file that nobody else may read.
fn read_password(file: &Path) -> Result<StorePassword, String> {
    check_absolute("password_file", file)?;
    let mut secret = secret_file::read(file, STORE_PASSWORD_BYTES_MAX + 2).map_err(|error| error.to_string())?;
    secret_file::trim_line_end(&mut secret);
    let text = std::str::from_utf8(&secret).map_err(|_| format!("{} is no text", file.display()))?;
    StorePassword::parse(text).map_err(|problem| format!("{}: {problem}", file.display()))
}
