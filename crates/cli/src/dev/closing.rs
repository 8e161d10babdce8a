//! After the tour: what to try next, news as they come, and an orderly end at Ctrl-C.

use mintage_agent::AgentEvent;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{report::Report, stage::Stage, steps::Steps};
use crate::failure::Failure;

/// Keeps everything running until it is told to end.
pub(super) async fn stay(mut stage: Stage, report: &Report, steps: &Steps) -> Result<(), Failure> {
    // Before the lines that promise it: whoever reads them may answer at once.
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    for line in suggestions(&stage, report) {
        steps.tell(&line);
    }
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            event = stage.events.next() => match event.as_ref().map(news) {
                Some(Some(line)) => steps.tell(&format!("{:7.3} s  {line}", steps.seconds())),
                Some(None) => {}
                None => {
                    stage.stop().await;
                    return Err(Failure::local("the agent ended by itself"));
                }
            },
        }
    }
    steps.tell("stopping");
    stage.stop().await;
    steps.tell(&format!("stopped; everything is kept in {}", report.dir.display()));
    Ok(())
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::local(format!("signals cannot be heard: {error}")))
}

/// An event as a line; none for what nobody waits for.
fn news(event: &AgentEvent) -> Option<String> {
    match event {
        AgentEvent::Delivered { spiffe_id, serial, .. } => Some(format!("delivered {spiffe_id}, serial {serial}")),
        AgentEvent::RevocationApplied { sequence } => Some(format!("revocations up to record {sequence} are in force")),
        AgentEvent::EntriesApplied { count, index } => Some(format!("{count} entries stand at record {index}")),
        AgentEvent::Retired { why, .. } => Some(format!("retired: {why}")),
        AgentEvent::Problem {
            stage,
            subject,
            message,
        } => Some(format!("problem: {stage} {subject}: {message}")),
        _ => None,
    }
}

/// A path as a shell takes it.
fn quoted(path: &std::path::Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '+' | ':' | '=' | '@');
    match text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

fn suggestions(stage: &Stage, report: &Report) -> Vec<String> {
    let program = std::env::args_os().next().unwrap_or_else(|| "mintage".into());
    let program = quoted(std::path::Path::new(&program));
    let with = format!("{program} --socket {}", quoted(stage.ca.admin_socket()));
    let ca_dir = quoted(&report.ca_dir());
    let mut lines = vec![
        String::new(),
        "Everything goes on running. In another terminal:".to_owned(),
        format!("  {with} cert list"),
        format!("  {with} audit search --kind issue,revoke"),
        format!("  {with} revoke --spiffe-id spiffe://dev.test/demo/web --reason key-compromise"),
        format!("  {with} agent renew dev"),
        format!("  {with} ca status"),
        format!(
            "  {program} --data-dir {ca_dir} audit verify --vkey {}",
            quoted(&report.vkey_file())
        ),
    ];
    if let Some(svid) = report.svids.first() {
        let (certificate, bundle) = (quoted(&svid.certificate), quoted(&svid.bundle));
        lines.push(format!("  openssl x509 -noout -text -in {certificate}"));
        lines.push(format!(
            "  openssl verify -x509_strict -purpose sslclient -CAfile {bundle} -untrusted {certificate} {certificate}"
        ));
    }
    let faces = [
        ("the CA", stage.ca.metrics_address()),
        ("the agent", stage.agent.metrics_address()),
    ];
    for (whose, address) in faces {
        lines.extend(
            address.map(|address| format!("  curl http://{address}/ready   # {whose}; also /live and /metrics")),
        );
    }
    lines.push("Ctrl-C ends it; the directory is kept.".to_owned());
    lines
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn paths_are_quoted_where_a_shell_needs_it() {
        assert_eq!(quoted(Path::new("/tmp/mintage-dev-1")), "/tmp/mintage-dev-1");
        assert_eq!(quoted(Path::new("/tmp/it's here")), "'/tmp/it'\\''s here'");
    }
}
