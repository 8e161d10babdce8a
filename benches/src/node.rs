//! Real `mintage-agent`s of a bench's host.

use std::{
    fs,
    path::{Path, PathBuf},
};

use mintage_proto::v1::RenewAgentRequest;
use mintage_tests::kit::{
    agent::{AgentProcess, config},
    ca,
    client::registry,
};

use crate::{host::Host, load::Failure};

/// An agent of this name, in a folder of its own, that serves its socket with these settings.
///
/// # Errors
/// When its folder cannot be made.
pub async fn agent(host: &Host, dir: &Path, name: &str, more: &str) -> Result<(AgentProcess, PathBuf), Failure> {
    let place = dir.join(name);
    fs::create_dir(&place)?;
    let file = config(&place, &[]);
    let socket = place.join("agent.sock");
    let text = fs::read_to_string(&file)?.replace("socket = \"off\"", &format!("socket = {socket:?}"));
    fs::write(&file, format!("{text}{more}"))?;
    let token = ca::token(&host.admin_socket(), name).await;
    let mut agent = AgentProcess::start(&place, &file, Some(&token));
    agent.wait_for_log("the entries", |log| log.contains("entries applied"));
    Ok((agent, socket))
}

/// Ends it.
///
/// # Errors
/// When it does not end in order.
pub fn stopped(agent: AgentProcess) -> Result<(), Failure> {
    match agent.stop() {
        Some(0) => Ok(()),
        _ => Err("an agent did not stop in order".into()),
    }
}

/// Demands new certificates of these entries; of all when there are none.
///
/// # Errors
/// The CA's refusal.
pub async fn renew(host: &Host, agent: &str, entries: Vec<String>) -> Result<(), Failure> {
    let request = RenewAgentRequest {
        name: agent.to_owned(),
        entries,
        ..RenewAgentRequest::default()
    };
    registry(&host.admin_socket()).await.renew_agent(request).await?;
    Ok(())
}
