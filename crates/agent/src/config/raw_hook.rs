//! A hook and an effect as the file writes them: which key is there says what kind of hook it is.

use std::path::PathBuf;

use serde::Deserialize;

use super::{
    Accounts, Effect, EffectProtocol, Hook, HookAction, HookSignal, SignalTarget, UnitJob,
    hook::{check_seconds, parse_url},
    raw::Account,
};
use crate::limits::{HOOK_WAIT, HOOK_WAIT_MAX};

/// Port of PostgreSQL unless the file says otherwise.
const POSTGRES_PORT: u16 = 5432;
/// Role of PostgreSQL unless the file says otherwise.
const POSTGRES_ROLE: &str = "postgres";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHook {
    signal: Option<String>,
    pid_file: Option<PathBuf>,
    pid: Option<i32>,
    systemd: Option<String>,
    unit: Option<String>,
    command: Option<Vec<String>>,
    haproxy: Option<PathBuf>,
    certificate: Option<String>,
    postgres: Option<PathBuf>,
    port: Option<u16>,
    role: Option<String>,
    http: Option<String>,
    user: Option<Account>,
    timeout_s: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEffect {
    address: String,
    protocol: Option<String>,
    server_name: Option<String>,
    within_s: Option<u64>,
}

/// The keys that say what a hook is, each with those that go with it.
const KINDS: [(&str, &[&str]); 6] = [
    ("signal", &["pid_file", "pid"]),
    ("systemd", &["unit"]),
    ("command", &["user"]),
    ("haproxy", &["certificate"]),
    ("postgres", &["port", "role", "user"]),
    ("http", &[]),
];

impl RawHook {
    /// The keys that are given, but for `timeout_s`, which goes with all.
    fn given(&self) -> Vec<&'static str> {
        let keys = [
            ("signal", self.signal.is_some()),
            ("pid_file", self.pid_file.is_some()),
            ("pid", self.pid.is_some()),
            ("systemd", self.systemd.is_some()),
            ("unit", self.unit.is_some()),
            ("command", self.command.is_some()),
            ("haproxy", self.haproxy.is_some()),
            ("certificate", self.certificate.is_some()),
            ("postgres", self.postgres.is_some()),
            ("port", self.port.is_some()),
            ("role", self.role.is_some()),
            ("http", self.http.is_some()),
            ("user", self.user.is_some()),
        ];
        keys.into_iter()
            .filter(|(_, given)| *given)
            .map(|(key, _)| key)
            .collect()
    }

    /// Exactly one kind, and no key of another.
    fn check_keys(&self) -> Result<(), String> {
        let given = self.given();
        let kinds: Vec<_> = KINDS.iter().filter(|(kind, _)| given.contains(kind)).collect();
        let [(kind, beside)] = kinds.as_slice() else {
            let names: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).collect();
            let count = kinds.len();
            return Err(format!(
                "a hook has exactly one of {}; this one has {count}",
                names.join(", ")
            ));
        };
        match given.iter().find(|key| *key != kind && !beside.contains(key)) {
            Some(stray) => Err(format!("{stray} does not go with {kind}")),
            None => Ok(()),
        }
    }

    pub(super) fn read(&self, accounts: &Accounts) -> Result<Hook, String> {
        self.check_keys()?;
        let hook = Hook {
            action: self.action(accounts)?,
            timeout: match self.timeout_s {
                Some(seconds) => check_seconds("timeout_s", seconds, HOOK_WAIT_MAX)?,
                None => HOOK_WAIT,
            },
        };
        hook.check().map(|()| hook)
    }

    fn action(&self, accounts: &Accounts) -> Result<HookAction, String> {
        if let Some(signal) = &self.signal {
            let target = match (&self.pid_file, self.pid) {
                (Some(pid_file), None) => SignalTarget::PidFile(pid_file.clone()),
                (None, Some(pid)) => SignalTarget::Pid(pid),
                (None, None) => return Err("signal needs pid_file or pid: whose process?".to_owned()),
                (Some(_), Some(_)) => return Err("signal has either pid_file or pid, not both".to_owned()),
            };
            let signal = HookSignal::parse(signal)?;
            return Ok(HookAction::Signal { signal, target });
        }
        if let Some(job) = &self.systemd {
            let unit = self.unit.clone().ok_or("systemd needs unit, such as nginx.service")?;
            let job = UnitJob::parse(job)?;
            return Ok(HookAction::Systemd { job, unit });
        }
        let user = self.user(accounts)?;
        if let Some(argv) = &self.command {
            let argv = argv.clone();
            return Ok(HookAction::Command { argv, user });
        }
        if let Some(socket) = &self.haproxy {
            let (socket, certificate) = (socket.clone(), self.certificate.clone());
            return Ok(HookAction::Haproxy { socket, certificate });
        }
        if let Some(socket_dir) = &self.postgres {
            return Ok(HookAction::Postgres {
                socket_dir: socket_dir.clone(),
                port: self.port.unwrap_or(POSTGRES_PORT),
                role: self.role.clone().unwrap_or_else(|| POSTGRES_ROLE.to_owned()),
                user,
            });
        }
        let (address, path) = parse_url(self.http.as_deref().unwrap_or_default())?;
        Ok(HookAction::Http { address, path })
    }

    fn user(&self, accounts: &Accounts) -> Result<Option<(u32, u32)>, String> {
        let Some(account) = &self.user else { return Ok(None) };
        let (uid, gid) = accounts.user(&account.text())?;
        // A number without an account has the group of the same number, as user-private groups have.
        Ok(Some((uid, gid.unwrap_or(uid))))
    }
}

impl RawEffect {
    pub(super) fn read(&self) -> Result<Effect, String> {
        let mut effect = Effect::new(&self.address)?;
        if let Some(protocol) = &self.protocol {
            effect.protocol = EffectProtocol::parse(protocol)?;
        }
        if let Some(seconds) = self.within_s {
            effect.within = check_seconds("within_s", seconds, HOOK_WAIT_MAX)?;
        }
        if let Some(name) = &self.server_name {
            rustls_pki_types::DnsName::try_from(name.as_str())
                .map_err(|_| format!("server_name {name:?} is no DNS name"))?;
            effect.server_name = Some(name.clone());
        }
        Ok(effect)
    }
}
