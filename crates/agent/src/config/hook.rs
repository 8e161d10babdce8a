//! What an operator wants done after a folder has changed, when, and how the effect is proven.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use mintage_identity::UnixTime;

use super::{check_absolute, check_address};
use crate::limits::{
    EFFECT_WITHIN, HOOK_ARGUMENT_BYTES_MAX, HOOK_ARGUMENTS_MAX, HOOK_WAIT, HOOK_WAIT_MAX, UNIT_BYTES_MAX,
};

/// One thing to do, and for how long at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// What is done.
    pub action: HookAction,
    /// It counts as failed after this time.
    pub timeout: Duration,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookAction {
    /// A signal to one process.
    Signal {
        /// Which one.
        signal: HookSignal,
        /// To whom.
        target: SignalTarget,
    },
    /// A job of systemd for one unit.
    Systemd {
        /// Reload or restart.
        job: UnitJob,
        /// The unit, with its suffix.
        unit: String,
    },
    /// A program, without a shell.
    Command {
        /// Absolute path and arguments.
        argv: Vec<String>,
        /// The user it runs as, with its group; `None` for the agent's own.
        user: Option<(u32, u32)>,
    },
    /// New content for what HAProxy has in memory, over its admin socket.
    Haproxy {
        /// The socket.
        socket: PathBuf,
        /// The certificate's name in HAProxy's configuration; `None` for the path of `haproxy.pem` in the folder.
        certificate: Option<String>,
    },
    /// `SELECT pg_reload_conf()` through psql.
    Postgres {
        /// Folder of the server's socket.
        socket_dir: PathBuf,
        /// Its port, which is in the socket's name.
        port: u16,
        /// The database role; it needs EXECUTE on the function.
        role: String,
        /// The user that psql runs as, with its group.
        user: Option<(u32, u32)>,
    },
    /// An empty POST.
    Http {
        /// A loopback address.
        address: SocketAddr,
        /// Path and query.
        path: String,
    },
}

/// Whom a signal is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignalTarget {
    /// The process whose number stands in this file.
    PidFile(PathBuf),
    /// The process that had this number when the configuration was read.
    Pid(i32),
}

/// The signals that servers read their files again at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookSignal {
    /// SIGHUP.
    Hup,
    /// SIGUSR1.
    Usr1,
    /// SIGUSR2.
    Usr2,
    /// SIGTERM, for what is started again by a supervisor.
    Term,
}

impl HookSignal {
    const ALL: [(&'static str, Self); 4] = [
        ("HUP", Self::Hup),
        ("USR1", Self::Usr1),
        ("USR2", Self::Usr2),
        ("TERM", Self::Term),
    ];

    /// The signal called `text`, with or without `SIG`.
    ///
    /// # Errors
    /// The names that are taken.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix("SIG").unwrap_or(text);
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found
            .map(|(_, signal)| *signal)
            .ok_or_else(|| format!("signal {text:?} is not one of HUP, USR1, USR2, TERM"))
    }

    /// Its number.
    pub fn number(self) -> i32 {
        use rustix::process::Signal;
        match self {
            Self::Hup => Signal::HUP,
            Self::Usr1 => Signal::USR1,
            Self::Usr2 => Signal::USR2,
            Self::Term => Signal::TERM,
        }
        .as_raw()
    }
}

/// What systemd is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitJob {
    /// The unit's own way of reading its files again.
    Reload,
    /// A stop and a start, where it runs.
    TryRestart,
}

impl UnitJob {
    /// The job called `text`.
    ///
    /// # Errors
    /// The names that exist.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "reload" => Ok(Self::Reload),
            "restart" => Ok(Self::TryRestart),
            _ => Err(format!("systemd job {text:?} is neither reload nor restart")),
        }
    }

    /// systemctl's verb. A unit that does not run is left alone: it reads the new files when it starts.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::TryRestart => "try-restart",
        }
    }
}

/// Where the new certificate must be served afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// `host:port`.
    pub address: String,
    /// How TLS begins there.
    pub protocol: EffectProtocol,
    /// The server name asked for; `None` for the address's host.
    pub server_name: Option<String>,
    /// The new certificate must be served within this time after the last hook.
    pub within: Duration,
}

/// How TLS begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EffectProtocol {
    /// At once.
    #[default]
    Tls,
    /// After PostgreSQL's SSLRequest.
    Postgres,
}

impl EffectProtocol {
    /// The protocol called `text`.
    ///
    /// # Errors
    /// The names that exist.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "tls" => Ok(Self::Tls),
            "postgres" => Ok(Self::Postgres),
            _ => Err(format!("protocol {text:?} is neither tls nor postgres")),
        }
    }
}

impl Effect {
    /// TLS at `host:port`.
    ///
    /// # Errors
    /// Refuses text of another form.
    pub fn new(address: &str) -> Result<Self, String> {
        check_address(address).map_err(|problem| problem.replace("CA address", "address"))?;
        Ok(Self {
            address: address.to_owned(),
            protocol: EffectProtocol::default(),
            server_name: None,
            within: EFFECT_WITHIN,
        })
    }

    /// What is proven, part by part, for the same use as [`HookAction::parts`]. How long that may take is no part of it, as a
    /// hook's time is none: what was proven stays so.
    pub(crate) fn parts(&self) -> [&str; 3] {
        let Self {
            address,
            protocol,
            server_name,
            within: _,
        } = self;
        let protocol = match protocol {
            EffectProtocol::Tls => "tls",
            EffectProtocol::Postgres => "postgres",
        };
        [address, protocol, server_name.as_deref().unwrap_or_default()]
    }
}

/// The hours of a day, in UTC, in which hooks run. They run outside of it only when what is served would otherwise end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    from: u32,
    to: u32,
}

/// Seconds of a day.
const DAY: i64 = 24 * 3600;

impl Window {
    /// Reads `HH:MM-HH:MM`; a window may go over midnight.
    ///
    /// # Errors
    /// Refuses another form, and a window of no length.
    pub fn parse(text: &str) -> Result<Self, String> {
        let refuse = || format!("window {text:?} is not of the form 02:00-04:30 (UTC)");
        let minute = |text: &str| -> Option<u32> {
            let (hours, minutes) = text.split_once(':')?;
            let two = |part: &str, below: u32| {
                let digits = part.len() == 2 && part.bytes().all(|octet| octet.is_ascii_digit());
                part.parse::<u32>().ok().filter(|value| digits && *value < below)
            };
            Some(two(hours, 24)? * 60 + two(minutes, 60)?)
        };
        let (from, to) = text.split_once('-').ok_or_else(refuse)?;
        match (minute(from), minute(to)) {
            (Some(from), Some(to)) if from != to => Ok(Self { from, to }),
            _ => Err(refuse()),
        }
    }

    /// How long from `now` until it is open; zero inside.
    pub fn opens_in(self, now: UnixTime) -> Duration {
        let second = now.seconds().rem_euclid(DAY);
        let (from, to) = (i64::from(self.from) * 60, i64::from(self.to) * 60);
        let since_open = (second - from).rem_euclid(DAY);
        if since_open < (to - from).rem_euclid(DAY) {
            return Duration::ZERO;
        }
        Duration::from_secs(u64::try_from((from - second).rem_euclid(DAY)).unwrap_or_default())
    }
}

impl HookAction {
    /// What it does, part by part: the same in every version of the agent, since it is kept to tell whether a server was told.
    pub(crate) fn parts(&self) -> Vec<String> {
        let user = |user: &Option<(u32, u32)>| user.map_or_else(String::new, |(uid, gid)| format!("{uid}:{gid}"));
        let path = |path: &Path| path.display().to_string();
        match self {
            Self::Signal { signal, target } => vec![
                "signal".to_owned(),
                signal.number().to_string(),
                match target {
                    SignalTarget::PidFile(file) => path(file),
                    SignalTarget::Pid(pid) => pid.to_string(),
                },
            ],
            Self::Systemd { job, unit } => vec!["systemd".to_owned(), job.verb().to_owned(), unit.clone()],
            Self::Command { argv, user: of } => {
                let mut parts = vec!["command".to_owned(), user(of)];
                parts.extend(argv.iter().cloned());
                parts
            }
            Self::Haproxy { socket, certificate } => {
                vec![
                    "haproxy".to_owned(),
                    path(socket),
                    certificate.clone().unwrap_or_default(),
                ]
            }
            Self::Postgres {
                socket_dir,
                port,
                role,
                user: of,
            } => vec![
                "postgres".to_owned(),
                path(socket_dir),
                port.to_string(),
                role.clone(),
                user(of),
            ],
            Self::Http { address, path } => vec!["http".to_owned(), address.to_string(), path.clone()],
        }
    }
}

impl Hook {
    /// The action with the default time.
    pub fn new(action: HookAction) -> Self {
        Self {
            action,
            timeout: HOOK_WAIT,
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        check_seconds("timeout_s", self.timeout.as_secs(), HOOK_WAIT_MAX)?;
        match &self.action {
            HookAction::Signal { target, .. } => match target {
                SignalTarget::PidFile(pid_file) => check_absolute("pid_file", pid_file),
                SignalTarget::Pid(pid) if *pid > 0 => Ok(()),
                SignalTarget::Pid(pid) => Err(format!("pid is {pid}, which is no process's number")),
            },
            HookAction::Systemd { unit, .. } => check_unit(unit),
            HookAction::Command { argv, .. } => check_argv(argv),
            HookAction::Haproxy { socket, certificate } => {
                check_absolute("haproxy", socket)?;
                certificate.iter().try_for_each(|name| check_haproxy_name(name))
            }
            HookAction::Postgres { socket_dir, role, .. } => {
                check_absolute("postgres", socket_dir)?;
                check_role(role)
            }
            HookAction::Http { address, path } => parse_url(&format!("http://{address}{path}")).map(drop),
        }
    }
}

/// A time in whole seconds between one and `most`.
pub(super) fn check_seconds(field: &str, seconds: u64, most: Duration) -> Result<Duration, String> {
    if seconds == 0 || seconds > most.as_secs() {
        return Err(format!(
            "{field} is {seconds}; it goes from 1 to {} seconds",
            most.as_secs()
        ));
    }
    Ok(Duration::from_secs(seconds))
}

/// A role's name as one word of a connection string.
fn check_role(role: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if !role.is_empty() && role.len() <= 63 && role.chars().all(plain) {
        return Ok(());
    }
    Err(format!(
        "role {role:?} must have 1 to 63 letters, digits, '_', '-' and '.'"
    ))
}

fn check_argv(argv: &[String]) -> Result<(), String> {
    let program = argv
        .first()
        .ok_or("command is empty; name a program by its absolute path")?;
    check_absolute("command", Path::new(program))?;
    if argv.len() > HOOK_ARGUMENTS_MAX {
        let given = argv.len();
        return Err(format!(
            "command has {given} parts, the limit is {HOOK_ARGUMENTS_MAX}; write a script"
        ));
    }
    match argv
        .iter()
        .find(|part| part.len() > HOOK_ARGUMENT_BYTES_MAX || part.contains('\0'))
    {
        Some(_) => Err(format!(
            "a part of command is longer than {HOOK_ARGUMENT_BYTES_MAX} bytes or has a zero byte"
        )),
        None => Ok(()),
    }
}

/// A unit's name as systemd writes it (systemd.unit(5)); it never begins like an option.
fn check_unit(unit: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\' | '@');
    let named = unit
        .rsplit_once('.')
        .is_some_and(|(name, suffix)| !name.is_empty() && !suffix.is_empty());
    if named && !unit.starts_with('-') && unit.len() <= UNIT_BYTES_MAX && unit.chars().all(fits) {
        return Ok(());
    }
    Err(format!("unit {unit:?} is no unit's whole name such as nginx.service"))
}

/// A name inside one line of HAProxy's command language.
fn check_haproxy_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, ';' | '<' | '\\');
    if !name.is_empty() && name.len() <= HOOK_ARGUMENT_BYTES_MAX && name.chars().all(plain) {
        return Ok(());
    }
    Err(format!(
        "certificate {name:?} must be printable ASCII without spaces, ';', '<' and '\\'"
    ))
}

/// `http://LOOPBACK:PORT/PATH`, as address and path.
pub(super) fn parse_url(text: &str) -> Result<(SocketAddr, String), String> {
    let refuse = |why: &str| Err(format!("http {text:?} {why}; write http://127.0.0.1:PORT/PATH"));
    let Some(rest) = text.strip_prefix("http://") else {
        return refuse("is no http:// address");
    };
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let Ok(address) = authority.parse::<SocketAddr>() else {
        return refuse("names no address and port in numbers");
    };
    if !address.ip().is_loopback() {
        return refuse("leaves this node without TLS");
    }
    match path.len() <= HOOK_ARGUMENT_BYTES_MAX && path.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'#') {
        true => Ok((address, path.to_owned())),
        false => refuse("has a path that is too long or not in URL form"),
    }
}

impl fmt::Display for HookAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal { signal, target } => match target {
                SignalTarget::PidFile(pid_file) => {
                    write!(f, "signal {signal:?} to the process of {}", pid_file.display())
                }
                SignalTarget::Pid(pid) => write!(f, "signal {signal:?} to process {pid}"),
            },
            Self::Systemd { job, unit } => write!(f, "systemctl {} {unit}", job.verb()),
            Self::Command { argv, .. } => write!(f, "{}", argv.first().map_or("", String::as_str)),
            Self::Haproxy { socket, .. } => write!(f, "HAProxy at {}", socket.display()),
            Self::Postgres { socket_dir, port, .. } => write!(f, "PostgreSQL at {}:{port}", socket_dir.display()),
            Self::Http { address, path } => write!(f, "POST http://{address}{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_open_from_its_first_to_before_its_last_minute() {
        let at = |hour: i64, minute: i64| UnixTime::from_seconds(1_800_000_000 / DAY * DAY + hour * 3600 + minute * 60);
        let night = Window::parse("02:00-04:30").unwrap();
        assert_eq!(night.opens_in(at(2, 0)), Duration::ZERO);
        assert_eq!(night.opens_in(at(4, 29)), Duration::ZERO);
        assert_eq!(night.opens_in(at(4, 30)), Duration::from_secs(21 * 3600 + 1800));
        assert_eq!(night.opens_in(at(1, 0)), Duration::from_secs(3600));
        let over = Window::parse("23:00-01:00").unwrap();
        assert_eq!(over.opens_in(at(0, 30)), Duration::ZERO);
        assert_eq!(over.opens_in(at(23, 0)), Duration::ZERO);
        assert_eq!(over.opens_in(at(1, 0)), Duration::from_secs(22 * 3600));
    }

    #[test]
    fn what_is_not_meant_is_refused_and_says_what_is() {
        for text in [
            "",
            "2:00-4:00",
            "02:00",
            "24:00-01:00",
            "02:00-02:00",
            "02:60-03:00",
            "+2:00-03:00",
        ] {
            assert!(Window::parse(text).unwrap_err().contains("02:00-04:30"), "{text}");
        }
        assert!(HookSignal::parse("KILL").unwrap_err().contains("HUP"));
        assert_eq!(HookSignal::parse("SIGHUP"), Ok(HookSignal::Hup));
        for unit in ["nginx", "-M.service", "a b.service", ".service", "x;y.service"] {
            assert!(check_unit(unit).is_err(), "{unit}");
        }
        assert!(check_unit("nginx@blue.service").is_ok());
        for url in [
            "https://127.0.0.1:1/",
            "http://10.0.0.1:80/",
            "http://localhost:80/",
            "http://127.0.0.1:1/a b",
        ] {
            assert!(parse_url(url).unwrap_err().contains("127.0.0.1:PORT"), "{url}");
        }
        assert_eq!(parse_url("http://[::1]:9").unwrap().1, "/");
        assert!(check_argv(&["nginx".to_owned()]).unwrap_err().contains("absolute"));
        assert!(
            check_argv(&vec!["/bin/true".to_owned(); HOOK_ARGUMENTS_MAX + 1])
                .unwrap_err()
                .contains("limit")
        );
        assert!(check_haproxy_name("a;b").is_err() && check_haproxy_name("/run/x/haproxy.pem").is_ok());
    }
}
