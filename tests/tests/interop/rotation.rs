//! A server that nobody here wrote, on a delivered folder, through rotations under a steady load of handshakes: not one
//! fails. Ten rotations, a hundred with `MINTAGE_FULL=1`. Envoys by SDS are in `interop_envoy_sds`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;

use mintage_proto::v1::RenewAgentRequest;
use mintage_svid::pem::decode_certificates;
use mintage_tests::kit::{
    client::registry,
    dice::full,
    handshakes::Load,
    node::Node,
    proxies::{Proxy, free_port},
};

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
    let rotations = if full() { 100 } else { 10 };
    let mut served = load.other_than("").await;
    for _ in 0..rotations {
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
    }
    let (made, failed) = load.counts();
    println!("{made} handshakes over {rotations} rotations");
    assert_eq!(failed, 0, "of {made}: {:?}, {}", load.first_failure(), nginx.log());
    assert!(made > rotations, "{made} handshakes are no load");
    drop((load, nginx));
    node.stop();
}
