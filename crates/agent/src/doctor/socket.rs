//! The socket: where it is, whether anybody answers on it, and what the running agent says of itself.

use std::{
    fs,
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
};

use hyper_util::rt::TokioIo;
use mintage_proto::v1::{StatusRequest, StatusResponse, agent_local_client::AgentLocalClient};
use mintage_sys::peer::peer_credentials;
use tokio::{net::UnixStream, time::timeout};
use tonic::{Code, Status, transport::Endpoint};

use super::notes::Notes;
use crate::{limits::CALL_WAIT, public_dir};

/// Looks at the socket at `path`; the number of the process that serves it.
pub(super) async fn examine(notes: &mut Notes, path: &Path) -> Option<i32> {
    if !place(notes, path) {
        return None;
    }
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) => {
            unanswered(notes, path, &error);
            return None;
        }
    };
    match timeout(CALL_WAIT, status(path)).await {
        Ok(Ok(status)) => told(notes, &status),
        Ok(Err(status)) if status.code() == Code::PermissionDenied => notes.warn(
            "agent",
            "answers, and tells only root and its own user how it is".to_owned(),
            "run as one of them",
        ),
        Ok(Err(status)) => notes.fail(
            "agent",
            format!("does not tell how it is: {}", status.message()),
            "see its log",
        ),
        Err(_) => notes.fail("agent", "does not answer in time".to_owned(), "see its log; restart it"),
    }
    // Of who listens; none in a pid namespace that is not ours.
    let server = peer_credentials(stream.as_fd()).ok();
    server.map(|server| server.pid).filter(|pid| *pid > 0)
}

/// Whether a socket lies there; what is wrong with its place.
fn place(notes: &mut Notes, path: &Path) -> bool {
    let shown = path.display();
    let parent = path.parent().unwrap_or(path);
    match fs::symlink_metadata(parent) {
        Err(error) => {
            let advice = "start the agent, which makes the last part of it; what is above must be there";
            notes.warn("socket", format!("{}: {error}", parent.display()), advice);
            return false;
        }
        Ok(_) => match public_dir::look(parent) {
            Ok(()) => notes.ok("socket", format!("{} is not for others to write", parent.display())),
            Err(problem) => notes.fail(
                "socket",
                problem,
                "an agent does not start with it: mend it or name another path",
            ),
        },
    }
    match fs::symlink_metadata(path) {
        Err(error) => {
            notes.warn("socket", format!("{shown}: {error}"), "start the agent");
            return false;
        }
        Ok(meta) if !meta.file_type().is_socket() => {
            notes.fail(
                "socket",
                format!("{shown} is no socket"),
                "remove it, or name another path",
            );
            return false;
        }
        Ok(meta) if meta.mode() & 0o666 != 0o666 => notes.warn(
            "socket",
            format!(
                "{shown} has mode {:04o}, so that not everybody may connect",
                meta.mode() & 0o7777
            ),
            "restart the agent; it asks the kernel who each caller is",
        ),
        Ok(_) => {}
    }
    true
}

fn unanswered(notes: &mut Notes, path: &Path, error: &std::io::Error) {
    let shown = path.display();
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => notes.fail(
            "socket",
            format!("{shown} is what a killed agent left: nobody answers"),
            "start the agent, which replaces it",
        ),
        _ => notes.fail(
            "socket",
            format!("{shown}: {error}"),
            "run as root or as the agent's user",
        ),
    }
}

async fn status(path: &Path) -> Result<StatusResponse, Status> {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://agent.sock");
    let connected = endpoint.connect_with_connector(connector).await;
    let channel = connected.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(AgentLocalClient::new(channel)
        .status(StatusRequest {})
        .await?
        .into_inner())
}

fn told(notes: &mut Notes, status: &StatusResponse) {
    match status.connected {
        true => notes.ok(
            "agent",
            format!("runs as {} and is connected to the CA", status.spiffe_id),
        ),
        false => notes.warn(
            "agent",
            "runs without a connection to the CA".to_owned(),
            "what is held serves until it ends; see its log and the lines about the CA here",
        ),
    }
    for delivery in status.deliveries.iter().filter(|delivery| !delivery.problem.is_empty()) {
        notes.fail(
            "delivery",
            format!("{} in {}: {}", delivery.entry, delivery.directory, delivery.problem),
            "what was in place stays until it ends; mintage entry explain tells why an entry is not for this node",
        );
    }
}
