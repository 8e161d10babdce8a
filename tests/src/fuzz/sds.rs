//! What any process of a node may send as an Envoy: requests for secrets.

use mintage_proto::sds::{DeltaDiscoveryRequest, DiscoveryRequest, Node, Problem};
use prost::Message as _;
use prost_types::{Struct, Value, value::Kind};

pub(super) fn requests() -> Vec<Vec<u8>> {
    let value = Value {
        kind: Some(Kind::StringValue("plain".to_owned())),
    };
    let node = Some(Node {
        id: "web".to_owned(),
        cluster: "shop".to_owned(),
        metadata: Some(Struct {
            fields: [("mintage_validator".to_owned(), value)].into(),
        }),
    });
    let problem = Some(Problem {
        code: 13,
        message: "no".to_owned(),
    });
    let whole = DiscoveryRequest {
        version_info: "0123456789abcdef".to_owned(),
        node: node.clone(),
        resource_names: vec!["default".to_owned(), "spiffe://dev.test/web".to_owned()],
        type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret".to_owned(),
        response_nonce: "1".to_owned(),
        error_detail: problem.clone(),
    };
    let delta = DeltaDiscoveryRequest {
        node,
        resource_names_subscribe: vec!["ROOTCA".to_owned()],
        resource_names_unsubscribe: vec!["ALL".to_owned()],
        initial_resource_versions: [("ROOTCA".to_owned(), "1".to_owned())].into(),
        response_nonce: "2".to_owned(),
        error_detail: problem,
        ..DeltaDiscoveryRequest::default()
    };
    vec![whole.encode_to_vec(), delta.encode_to_vec()]
}

/// What was taken holds no more than the bytes can, and is taken again in the form in which it is written.
pub(super) fn request(bytes: &[u8]) -> bool {
    let whole = DiscoveryRequest::decode(bytes);
    if let Ok(request) = &whole {
        let names: usize = request.resource_names.iter().map(String::len).sum();
        assert!(names + request.resource_names.len() <= bytes.len());
        let again = DiscoveryRequest::decode(&request.encode_to_vec()[..]).expect("its own form");
        assert_eq!(again.encoded_len(), request.encoded_len());
        assert_eq!(again.resource_names, request.resource_names);
    }
    let delta = DeltaDiscoveryRequest::decode(bytes);
    if let Ok(request) = &delta {
        let names: usize = request.resource_names_subscribe.iter().map(String::len).sum();
        assert!(names + request.initial_resource_versions.len() <= bytes.len());
        let again = DeltaDiscoveryRequest::decode(&request.encode_to_vec()[..]).expect("its own form");
        assert_eq!(again.encoded_len(), request.encoded_len());
        assert_eq!(again.initial_resource_versions, request.initial_resource_versions);
    }
    !bytes.is_empty() && (whole.is_ok() || delta.is_ok())
}
