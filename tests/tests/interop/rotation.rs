//! A server that nobody here wrote, on a delivered folder, through rotations under a steady load of 200 handshakes a second: not
//! one fails. Envoys by SDS are in `envoy_sds`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, time::Instant};

use mintage_proto::v1::RenewAgentRequest;
use mintage_svid::pem::decode_certificates;
use mintage_tests::kit::{
    client::registry,
    handshakes::Load,
    node::Node,
    proxies::{Proxy, free_port},
};

/// Rotations under load.
const ROTATIONS: u64 = 100;
/// Handshakes with each certificate, so that the load meets every reload.
const WITH_EACH: u64 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn nginx_fails_no_handshake_while_its_certificate_rotates() {
    let front = tempfile::tempdir().unwrap();
    let port = free_port();
    let pid_file = front.path().join("nginx.pid");
    let more = format!("[[delivery.hook]]\nsignal = 'HUP'\npid_file = {pid_file:?}\n");
    let node = Node::start(&["web"], &more).await;
    let folder = node.place.join("web");
    let Some(nginx) = Proxy::nginx_from(front.path(), &folder, port) else {
        return;
    };
    let roots = fs::read_to_string(folder.join("svid_bundle.pem")).unwrap();
    let load = Load::begin(port, decode_certificates(&roots).unwrap());
    let mut served = load.other_than("").await;
    let began = Instant::now();
    for _ in 0..ROTATIONS {
        let request = RenewAgentRequest {
            name: "n1".to_owned(),
            entries: vec!["web".to_owned()],
            ..RenewAgentRequest::default()
        };
        registry(&node.ca.admin_socket())
            .await
            .renew_agent(request)
            .await
            .unwrap();
        served = load.other_than(&served).await;
        load.goes_on(WITH_EACH).await;
    }
    let (made, failed) = load.counts();
    println!(
        "{made} handshakes over {ROTATIONS} rotations in {:.1} s, {:.0} a second, {failed} failed",
        began.elapsed().as_secs_f64(),
        load.per_second()
    );
    assert_eq!(failed, 0, "of {made}: {:?}, {}", load.first_failure(), nginx.log());
    assert!(made >= ROTATIONS * WITH_EACH, "{made} handshakes are no load");
    load.was_steady();
    drop((load, nginx));
    node.stop();
}
