//! The agent's socket against its role table: every RPC that there is, called by the agent's own user and by another, is
//! answered as the table says.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{os::unix::net::UnixStream, path::Path, time::Duration};

use hyper_util::rt::TokioIo;
use mintage_agent::roles::{Role, allowed, role_of};
use mintage_proto::v1::{ExplainRequest, agent_local_client::AgentLocalClient, explain_request::Subject};
use mintage_tests::kit::{
    agent::AgentProcess,
    blank::call,
    ca::{CaProcess, make, token},
    client::admin,
    peers::root,
};
use rustix::{
    process::{Gid, Uid},
    thread::{set_thread_res_gid, set_thread_res_uid},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, ServerReflectionResponse, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

/// A user that has nothing to do with the agent (nobody).
const OTHER_UID: u32 = 65_534;

/// Streams that one user may have open.
const STREAMS_PER_USER: usize = 8;

/// As a workload calls.
fn request() -> Request<()> {
    let mut request = Request::new(());
    request
        .metadata_mut()
        .insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

/// Every path there is or could be.
fn paths() -> Vec<String> {
    let known: Vec<String> = mintage_proto::every_rpc()
        .iter()
        .map(mintage_proto::Rpc::path)
        .collect();
    assert!(known.len() > 30, "{known:?}");
    let health = ["Check", "List", "Watch"].map(|method| format!("/grpc.health.v1.Health/{method}"));
    let reflection = ["v1", "v1alpha"].map(|v| format!("/grpc.reflection.{v}.ServerReflection/ServerReflectionInfo"));
    let unknown = ["/mintage.v1.AgentLocal/Nothing", "/SpiffeWorkloadAPI/Nothing", "/"];
    known
        .into_iter()
        .chain(health)
        .chain(reflection)
        .chain(unknown.map(str::to_owned))
        .collect()
}

/// Calls everything in a role, and returns what was not answered as the table says.
async fn wrong(channel: &Channel, role: Role) -> Vec<String> {
    let mut wrong = Vec::new();
    for path in paths() {
        let outcome = call(channel, &path, request()).await;
        let status = outcome.as_ref().err();
        let code = status.map(Status::code);
        let by_table = status.is_some_and(|status| status.message().contains("may not call"));
        let right = match allowed(&path) {
            None => code == Some(Code::Unimplemented),
            Some(roles) if !roles.contains(&role) => code == Some(Code::PermissionDenied) && by_table,
            // A token is for somebody: the empty request names no audience.
            Some(_) if path.contains("JWTSVID") => {
                !by_table && matches!(code, Some(Code::InvalidArgument | Code::PermissionDenied))
            }
            // Whoever has no identity is refused by the handler, with its reason.
            Some(_) => !by_table && !matches!(code, Some(Code::Unimplemented | Code::Internal | Code::InvalidArgument)),
        };
        if !right {
            wrong.push(format!("{role:?} {path}: {outcome:?}"));
        }
    }
    wrong
}

/// A connection whose other end the kernel names to the agent as this user. Only the thread that connects becomes it, and
/// that thread ends.
fn connected_as(uid: u32, socket: &Path) -> UnixStream {
    let socket = socket.to_path_buf();
    let connecting = std::thread::spawn(move || {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
        UnixStream::connect(socket).unwrap()
    });
    connecting.join().unwrap()
}

/// A channel over a connection that stands already.
async fn over(stream: UnixStream) -> Channel {
    stream.set_nonblocking(true).unwrap();
    let mut once = Some(stream);
    let connect = tower::service_fn(move |_| {
        let stream = once.take();
        async move {
            let stream = stream.ok_or_else(|| std::io::Error::other("the connection has ended"))?;
            tokio::net::UnixStream::from_std(stream).map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_static("http://mintage.invalid");
    endpoint.connect_with_connector(connect).await.unwrap()
}

/// An agent with its socket open to every user of the node.
fn serving(folder: &Path) -> (CaProcess, AgentProcess) {
    let data = folder.join("ca");
    make(&data);
    let ca = CaProcess::start(&data, 0);
    let file = folder.join("agent.toml");
    let (dir, socket) = (folder.join("agent"), folder.join("run/agent.sock"));
    let limits = format!("[limits]\nstreams_per_user = {STREAMS_PER_USER}\n");
    std::fs::write(&file, format!("data_dir = {dir:?}\nsocket = {socket:?}\n{limits}")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let token = runtime.block_on(token(&ca.admin_socket(), "n1"));
    let mut agent = AgentProcess::start(folder, &file, Some(&token));
    agent.wait_for("the socket", || socket.exists().then_some(()));
    let log = folder.join("agent.log");
    agent.wait_for("the stream", || {
        std::fs::read_to_string(&log)
            .is_ok_and(|log| log.contains("connected to the CA"))
            .then_some(())
    });
    (ca, agent)
}

#[test]
fn every_rpc_is_answered_as_the_role_table_says() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, agent) = serving(folder.path());
    let socket = folder.path().join("run/agent.sock");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let own = rustix::process::geteuid().as_raw();
    assert_eq!(role_of(own, own), Role::Operator);
    let found = runtime.block_on(async { wrong(&admin(&socket).await.unwrap(), Role::Operator).await });
    assert!(found.is_empty(), "{}", found.join("\n"));

    // Only root can become another user; elsewhere this half proves nothing.
    if own == 0 {
        let stream = connected_as(OTHER_UID, &socket);
        let found = runtime.block_on(async { wrong(&over(stream).await, Role::Workload).await });
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(ca.stop(), Some(0));
}

/// One question about a subject.
async fn explained(channel: &Channel, subject: Option<Subject>) -> Result<(i32, u32), Status> {
    let mut local = AgentLocalClient::new(channel.clone());
    let answer = local.explain(ExplainRequest { subject }).await?.into_inner();
    Ok((answer.pid, answer.uid))
}

#[test]
fn other_users_processes_are_explained_to_operators_alone() {
    if !root("nobody else calls as another user") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (ca, agent) = serving(folder.path());
    let socket = folder.path().join("run/agent.sock");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let own = std::process::id().cast_signed();
    let operator = runtime.block_on(async { admin(&socket).await.unwrap() });
    assert_eq!(
        runtime.block_on(explained(&operator, Some(Subject::Pid(own)))).unwrap(),
        (own, 0)
    );
    assert_eq!(
        runtime
            .block_on(explained(&operator, Some(Subject::Uid(OTHER_UID))))
            .unwrap(),
        (0, OTHER_UID)
    );
    let stream = connected_as(OTHER_UID, &socket);
    let other = runtime.block_on(over(stream));
    for (subject, code) in [
        (Subject::Pid(own), Code::FailedPrecondition),
        (Subject::Uid(0), Code::PermissionDenied),
    ] {
        let refused = runtime.block_on(explained(&other, Some(subject))).unwrap_err();
        assert_eq!(refused.code(), code, "{refused:?}");
        assert!(refused.message().contains("as root"), "{refused:?}");
    }
    assert_eq!(
        runtime
            .block_on(explained(&other, Some(Subject::Uid(OTHER_UID))))
            .unwrap(),
        (0, OTHER_UID)
    );
    for pid in [0, -1, i32::MIN] {
        let refused = runtime
            .block_on(explained(&operator, Some(Subject::Pid(pid))))
            .unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    }
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(ca.stop(), Some(0));
}

/// A stream that asks nothing, and stays as long as this does.
type Held = (
    mpsc::Sender<ServerReflectionRequest>,
    Streaming<ServerReflectionResponse>,
);

async fn held(channel: &Channel) -> Result<Held, Status> {
    let mut reflection = ServerReflectionClient::new(channel.clone());
    let (asking, questions) = mpsc::channel(1);
    let stream = reflection.server_reflection_info(ReceiverStream::new(questions));
    Ok((asking, stream.await?.into_inner()))
}

/// Opens such streams until one is refused; those that are open, and the refusal.
async fn as_many_as_may_be(channel: &Channel) -> (Vec<Held>, Status) {
    let mut open = Vec::new();
    loop {
        match held(channel).await {
            Ok(stream) => open.push(stream),
            Err(status) => return (open, status),
        }
        assert!(open.len() < 1_000, "without end");
    }
}

#[test]
fn w6_any_user_may_ask_reflection_and_none_without_end() {
    if !root("nobody else calls as another user") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (ca, agent) = serving(folder.path());
    let socket = folder.path().join("run/agent.sock");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let other = runtime.block_on(over(connected_as(OTHER_UID, &socket)));
    runtime.block_on(async {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut reflection = ServerReflectionClient::new(other.clone());
        let answers = reflection
            .server_reflection_info(futures_util::stream::iter([request]))
            .await;
        let answer = answers.unwrap().into_inner().message().await.unwrap().unwrap();
        let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
            panic!("no list of services: {answer:?}");
        };
        assert!(list.service.iter().any(|service| service.name == "SpiffeWorkloadAPI"));

        let (open, refused) = as_many_as_may_be(&other).await;
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert!((1..=STREAMS_PER_USER).contains(&open.len()), "{} are open", open.len());
        // Another user has his own, and what was closed may be opened again.
        let own = admin(&socket).await.unwrap();
        let _own = held(&own).await.unwrap();
        drop(open);
        let again = async {
            while held(&other).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), again)
            .await
            .expect("places are given back");
    });
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(ca.stop(), Some(0));
}
