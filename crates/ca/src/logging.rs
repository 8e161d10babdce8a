//! Structured logs on stderr: text on a terminal, JSON lines otherwise. `MINTAGE_LOG` sets the level (default `info`).
//! Values from outside are escaped where they enter a log call; the JSON writer escapes what is left.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging for this process; a second call changes nothing.
pub fn start() {
    let filter = EnvFilter::try_from_env("MINTAGE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    let colour = std::env::var_os("NO_COLOR").is_none() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    // A subscriber that stands already, as in tests, is kept.
    let _ = match std::io::stderr().is_terminal() {
        true => builder.with_ansi(colour).try_init(),
        false => builder.json().flatten_event(true).with_ansi(false).try_init(),
    };
}
