//! What is done after a folder has changed: hooks in their order, then the look at what is served. One change is carried
//! out at a time for each folder; the core decides when, and tries again.

use std::{sync::Arc, time::Duration};

use rustls::crypto::CryptoProvider;
use tokio::time::timeout;

use crate::{
    config::{Delivery, Hook, HookAction},
    held::Held,
};

mod effect;
mod haproxy;
mod http;
mod program;
mod served;
mod signal;
mod turns;

pub(crate) use served::{Content, Served};
pub(crate) use signal::Pinned;
pub(crate) use turns::Turns;

/// What of a change is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// The hooks from this one on, since those before have succeeded, and the look.
    From(usize),
    /// The look alone.
    Look,
}

/// How far it came, and why no further.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(crate) stage: &'static str,
    /// Hooks that have succeeded, from the first on.
    pub(crate) done: usize,
    pub(crate) problem: String,
}

/// A change that is in place in its folder.
pub(crate) struct Change {
    pub(crate) delivery: Delivery,
    pub(crate) held: Arc<Held>,
    /// The processes that its hooks name by number.
    pub(crate) pinned: Arc<Pinned>,
    pub(crate) round: Round,
    /// For the look at what is served.
    pub(crate) provider: Arc<CryptoProvider>,
}

impl Change {
    /// Does it all; an error says which hook failed and why.
    pub(crate) async fn carry_out(&self) -> Result<(), Stopped> {
        let hooks = self.delivery.hooks();
        let first = match self.round {
            Round::From(first) => first,
            Round::Look => hooks.len(),
        };
        for (done, hook) in hooks.iter().enumerate().skip(first) {
            self.run(hook).await.map_err(|problem| Stopped {
                stage: "hook",
                done,
                problem: format!("{}: {problem}", hook.action),
            })?;
        }
        match self.delivery.effect() {
            None => Ok(()),
            Some(effect) => effect::prove(effect, &self.held, &self.provider)
                .await
                .map_err(|problem| Stopped {
                    stage: "effect",
                    done: hooks.len(),
                    problem,
                }),
        }
    }

    async fn run(&self, hook: &Hook) -> Result<(), String> {
        let done = match &hook.action {
            HookAction::Signal { signal, target } => return signal::send(*signal, target, &self.pinned),
            HookAction::Systemd { job, unit } => {
                let argv = ["/usr/bin/systemctl", "--no-ask-password", job.verb(), "--", unit];
                let ran = self.program(&argv, None, hook.timeout).await;
                return ran.map(drop).map_err(refused_by_systemd);
            }
            HookAction::Command { argv, user } => {
                let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
                return self.program(&argv, *user, hook.timeout).await.map(drop);
            }
            HookAction::Postgres {
                socket_dir,
                port,
                role,
                user,
            } => {
                let connection = format!("host='{}' port={port} user={role} dbname=postgres", quoted(socket_dir)?);
                return self.reload_postgres(&connection, *user, hook.timeout).await;
            }
            HookAction::Haproxy { socket, certificate } => {
                timeout(hook.timeout, haproxy::update(self, socket, certificate.as_deref())).await
            }
            HookAction::Http { address, path } => timeout(hook.timeout, http::post(*address, path)).await,
        };
        done.unwrap_or_else(|_| Err(late(hook.timeout)))
    }

    async fn reload_postgres(
        &self,
        connection: &str,
        user: Option<(u32, u32)>,
        within: Duration,
    ) -> Result<(), String> {
        let sql = "SELECT pg_catalog.pg_reload_conf()";
        let argv = [
            "/usr/bin/psql",
            "--no-psqlrc",
            "--no-password",
            "-At",
            "-c",
            sql,
            connection,
        ];
        match self.program(&argv, user, within).await?.trim() {
            "t" => Ok(()),
            other => Err(format!(
                "pg_reload_conf() answered {other:?} instead of t; see the server's log"
            )),
        }
    }

    async fn program(&self, argv: &[&str], user: Option<(u32, u32)>, within: Duration) -> Result<String, String> {
        let facts = [
            ("MINTAGE_ENTRY", self.delivery.entry().to_string()),
            ("MINTAGE_DIRECTORY", self.delivery.directory().display().to_string()),
            ("MINTAGE_SPIFFE_ID", self.held.id().to_string()),
            ("MINTAGE_SERIAL", self.held.serial().to_string()),
        ];
        program::run(argv, user, &facts, within).await
    }
}

/// A path inside the quotes of a connection string (libpq, section "Connection Strings").
fn quoted(path: &std::path::Path) -> Result<String, String> {
    let text = path.to_str().ok_or("the socket's folder has a name that is no UTF-8")?;
    Ok(text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// systemctl's words, with the remedy where polkit did not let the agent's user do it.
fn refused_by_systemd(problem: String) -> String {
    let words = [
        "Interactive authentication required",
        "Access denied",
        "Permission denied",
    ];
    match words.iter().any(|word| problem.contains(word)) {
        true => format!("{problem}; the agent's user needs a rule of polkit, see deploy/mintage-agent-units.rules"),
        false => problem,
    }
}

/// What is told of a wait that ended.
fn late(within: Duration) -> String {
    let seconds = within.as_secs();
    format!("it had not ended after {seconds} s; is it stuck, or does it need a longer timeout_s?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_polkit_is_told_with_its_remedy() {
        for told in ["Interactive authentication required.", "Access denied"] {
            let told = refused_by_systemd(format!("exit status: 1: Failed to reload nginx.service: {told}"));
            assert!(told.ends_with("see deploy/mintage-agent-units.rules"), "{told}");
        }
        let other = "exit status: 5: Failed to reload nginx.service: Unit nginx.service not found.";
        assert_eq!(refused_by_systemd(other.to_owned()), other);
    }
}
