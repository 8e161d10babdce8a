//! Rows of the SPIFFE Workload Endpoint and API that are about the whole of CA, agent and socket: each test is named after
//! its rows.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use mintage_proto::{
    v1::{DeleteEntryRequest, revoke_request::Target},
    workload::{
        JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest, X509svidRequest, X509svidResponse,
        spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
};
use mintage_svid::{Crl, LeafInfo, split_certificates};
use mintage_tests::kit::{
    ca::entry_for,
    client::{admin, registry},
    node::{Node, ask},
};
use prost::Message;
use prost_types::FileDescriptorProto;
use tokio::{net::UnixStream, time::timeout};
use tonic::{Code, Request, Status, Streaming, transport::Channel};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

/// Longest wait for anything; the machine may be busy.
const SOON: Duration = Duration::from_secs(60);
/// What row W15 promises.
const WITHDRAWN_WITHIN: Duration = Duration::from_secs(1);

fn call<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

async fn client(node: &Node) -> SpiffeWorkloadApiClient<Channel> {
    SpiffeWorkloadApiClient::new(admin(&node.socket()).await.unwrap())
}

async fn next(stream: &mut Streaming<X509svidResponse>) -> Result<X509svidResponse, Status> {
    Ok(timeout(SOON, stream.message()).await.unwrap()?.unwrap())
}

async fn opened(client: &mut SpiffeWorkloadApiClient<Channel>) -> Result<Streaming<X509svidResponse>, Status> {
    Ok(client.fetch_x509svid(call(X509svidRequest {})).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn w1_w4_the_kernel_says_who_calls_over_plain_grpc_and_nothing_that_the_caller_says_counts() {
    let node = Node::start(&["web"], "").await;
    let own = rustix::process::geteuid().as_raw();
    entry_for(&node.ca.admin_socket(), "other", "/other", own + 1).await;
    // No TLS, no credential, no word about itself.
    let mut client = client(&node).await;
    let first = next(&mut opened(&mut client).await.unwrap()).await.unwrap();
    let ids: Vec<&str> = first.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect();
    assert_eq!(ids, ["spiffe://dev.test/web"]);
    // Whatever it claims, the answer is the same.
    let mut request = call(X509svidRequest {});
    for (name, value) in [
        ("authorization", "Bearer spiffe://dev.test/other"),
        ("uid", "1"),
        ("x-forwarded-client-cert", "URI=spiffe://dev.test/other"),
    ] {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    let mut claimed = client.fetch_x509svid(request).await.unwrap().into_inner();
    assert_eq!(next(&mut claimed).await.unwrap().svids, first.svids);
    node.stop();
}

/// One question by reflection.
async fn reflected(channel: &Channel, question: MessageRequest) -> Result<MessageResponse, Status> {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(question),
    };
    let mut client = ServerReflectionClient::new(channel.clone());
    let question = futures_util::stream::iter([request]);
    let mut answers = client.server_reflection_info(question).await?.into_inner();
    let answer = timeout(SOON, answers.message()).await.unwrap()?;
    Ok(answer.unwrap().message_response.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn w6_reflection_shows_the_standards_service_as_it_is_and_ours_beside_it() {
    let node = Node::start(&["web"], "").await;
    let channel = admin(&node.socket()).await.unwrap();
    let Ok(MessageResponse::ListServicesResponse(list)) =
        reflected(&channel, MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list of services");
    };
    let mut names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "SpiffeWorkloadAPI",
            "envoy.service.auth.v3.Authorization",
            "envoy.service.secret.v3.SecretDiscoveryService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "mintage.v1.AgentLocal",
            "mintage.v1.RevocationLookup",
        ]
    );
    let Ok(MessageResponse::FileDescriptorResponse(files)) = reflected(
        &channel,
        MessageRequest::FileContainingSymbol("SpiffeWorkloadAPI".to_owned()),
    )
    .await
    else {
        panic!("no file of the Workload API");
    };
    let file = FileDescriptorProto::decode(files.file_descriptor_proto[0].as_slice()).unwrap();
    let methods: Vec<&str> = file.service[0].method.iter().map(|method| method.name()).collect();
    assert_eq!(
        methods,
        [
            "FetchX509SVID",
            "FetchX509Bundles",
            "FetchJWTSVID",
            "FetchJWTBundles",
            "ValidateJWTSVID",
        ],
        "the service of the standard has nothing of ours"
    );
    // What is not on the socket is not described.
    let hidden = reflected(
        &channel,
        MessageRequest::FileContainingSymbol("mintage.v1.Registry".to_owned()),
    )
    .await;
    assert_eq!(hidden.unwrap_err().code(), Code::NotFound);
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn w9_an_empty_mandatory_field_is_an_invalid_argument() {
    let node = Node::start(&["web"], "").await;
    let mut client = client(&node).await;
    for audience in [vec![], vec![String::new()], vec!["db".to_owned(), String::new()]] {
        let request = JwtsvidRequest {
            audience: audience.clone(),
            spiffe_id: String::new(),
        };
        let refused = client.fetch_jwtsvid(call(request)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{audience:?}: {refused}");
        assert!(refused.message().contains("audience"), "{refused}");
    }
    for (audience, svid) in [("", "a.b.c"), ("db", ""), ("", "")] {
        let request = ValidateJwtsvidRequest {
            audience: audience.to_owned(),
            svid: svid.to_owned(),
        };
        let refused = client.validate_jwtsvid(call(request)).await.unwrap_err();
        assert_eq!(
            refused.code(),
            Code::InvalidArgument,
            "{audience:?} {svid:?}: {refused}"
        );
    }
    node.stop();
}

/// From the CA's reply that an entry is deleted to the end of an open stream.
async fn withdrawn(node: &Node, name: &str) -> Duration {
    let own = rustix::process::geteuid().as_raw();
    entry_for(&node.ca.admin_socket(), name, &format!("/{name}"), own).await;
    let mut client = client(node).await;
    let started = Instant::now();
    let mut stream = loop {
        // Denied until the entry has come to the agent.
        match opened(&mut client).await {
            Ok(stream) => break stream,
            Err(status) => assert!(started.elapsed() < SOON, "{status}"),
        }
    };
    next(&mut stream).await.unwrap();
    let request = DeleteEntryRequest {
        name: name.to_owned(),
        dry_run: false,
    };
    registry(&node.ca.admin_socket())
        .await
        .delete_entry(request)
        .await
        .unwrap();
    let deleted = Instant::now();
    // Lists of what the deletion struck may come before.
    let ended = loop {
        if let Err(ended) = next(&mut stream).await {
            break ended;
        }
    };
    let took = deleted.elapsed();
    assert_eq!(ended.code(), Code::PermissionDenied, "{ended}");
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn w15_a_withdrawal_ends_open_streams_within_a_second() {
    let mut node = Node::start(&[], "").await;
    let socket = node.socket();
    node.agent.wait_for("its socket", || socket.exists().then_some(()));
    let mut best = Duration::MAX;
    for round in 0..5 {
        let took = withdrawn(&node, &format!("e{round}")).await;
        println!("round {round}: the stream ended {took:?} after the reply");
        best = best.min(took);
        if best <= WITHDRAWN_WITHIN {
            break;
        }
    }
    assert!(best <= WITHDRAWN_WITHIN, "the best of five took {best:?}");
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn w15_the_lists_of_revoked_certificates_stand_in_crl_and_follow_a_revocation() {
    let node = Node::start(&["web"], "").await;
    let mut client = client(&node).await;
    let mut stream = opened(&mut client).await.unwrap();
    let mut first = next(&mut stream).await.unwrap();
    while first.crl.len() < 2 {
        // They are fetched after the first entries.
        first = next(&mut stream).await.unwrap();
    }
    let issuing = |crls: &[Vec<u8>]| crls.iter().map(|der| Crl::parse(der).unwrap().entries()).sum::<usize>();
    let before = issuing(&first.crl);
    let bundles = client.fetch_x509_bundles(call(X509BundlesRequest {})).await.unwrap();
    let bundles = timeout(SOON, bundles.into_inner().message())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(bundles.crl, first.crl);
    let chain = split_certificates(&first.svids[0].x509_svid).unwrap();
    let serial = LeafInfo::parse(&chain[0]).unwrap().serial().to_string();
    node.revoke(Target::Serial(serial)).await;
    let grown = async { while issuing(&next(&mut stream).await.unwrap().crl) <= before {} };
    timeout(SOON, grown).await.unwrap();
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn d51_what_is_no_call_of_the_socket_is_refused() {
    let node = Node::start(&["web"], "").await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    for path in ["/", "/SpiffeWorkloadAPI/FetchX509SVID", "/v1/nothing"] {
        let answer = ask(&node.socket(), &get(path)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
    let grpc = "POST /SpiffeWorkloadAPI/FetchX509SVID HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\n\
                workload.spiffe.io: true\r\ncontent-length: 5\r\nconnection: close\r\n\r\n\0\0\0\0\0";
    let answer = ask(&node.socket(), grpc).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 4") && !answer.contains("spiffe://"),
        "{answer}"
    );
    // TLS is nothing that is spoken here: the connection ends without an answer.
    let hello = "\u{16}\u{3}\u{1}\0\u{5}hello";
    let answer = ask(&node.socket(), hello).await;
    assert!(
        answer.as_ref().is_err() || answer.as_ref().is_ok_and(|text| text.starts_with("HTTP/1.1 400")),
        "{answer:?}"
    );
    // It serves on.
    UnixStream::connect(node.socket()).await.unwrap();
    next(&mut opened(&mut client(&node).await).await.unwrap())
        .await
        .unwrap();
    node.stop();
}
