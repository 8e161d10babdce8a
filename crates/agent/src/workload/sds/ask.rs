//! What a request may hold, and which validator its node chooses.

use mintage_identity::SpiffeId;
use mintage_proto::sds::{DeltaDiscoveryRequest, DiscoveryRequest, Node};
use prost_types::value::Kind;
use tonic::Status;

use crate::{
    config::{Sds, Validator},
    limits::{SDS_NAME_BYTES_MAX, SDS_NAMES_BYTES_MAX, SDS_NAMES_MAX},
};

/// The one type of resource here.
pub(super) const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// The node's word for [`Validator`], as a string.
const VALIDATOR_KEY: &str = "mintage_validator";
/// What Envoys are configured with for SPIRE: true chooses [`Validator::Plain`].
const NO_SPIFFE_KEY: &str = "disable_spiffe_cert_validation";

/// Checks a request of the whole state.
pub(super) fn check_whole(request: &DiscoveryRequest) -> Result<(), Status> {
    check_type(&request.type_url)?;
    check_names("resource_names", request.resource_names.iter())
}

/// Checks a request for changes; `after` are the names asked for once it is taken.
pub(super) fn check_delta<'a>(
    request: &DeltaDiscoveryRequest,
    after: impl Iterator<Item = &'a String>,
) -> Result<(), Status> {
    check_type(&request.type_url)?;
    check_names("resource_names_subscribe", request.resource_names_subscribe.iter())?;
    check_names("resource_names_unsubscribe", request.resource_names_unsubscribe.iter())?;
    check_names("initial_resource_versions", request.initial_resource_versions.keys())?;
    check_sums("resource_names_subscribe", after)
}

fn check_type(type_url: &str) -> Result<(), Status> {
    match type_url.is_empty() || type_url == SECRET_TYPE {
        true => Ok(()),
        false => Err(Status::invalid_argument(format!(
            "type_url: this service has secrets alone; use {SECRET_TYPE}"
        ))),
    }
}

fn check_names<'a>(field: &str, names: impl Iterator<Item = &'a String> + Clone) -> Result<(), Status> {
    check_sums(field, names.clone())?;
    for name in names {
        if name.is_empty() || name.len() > SDS_NAME_BYTES_MAX {
            return Err(Status::invalid_argument(format!(
                "{field}: a name has {} bytes, 1 to {SDS_NAME_BYTES_MAX} are allowed; use a SPIFFE ID or one of the \
                 names that the agent's configuration has in [sds]",
                name.len()
            )));
        }
    }
    Ok(())
}

fn check_sums<'a>(field: &str, names: impl Iterator<Item = &'a String>) -> Result<(), Status> {
    let (count, bytes) = names.fold((0, 0), |(count, bytes), name| (count + 1, bytes + name.len()));
    match count <= SDS_NAMES_MAX && bytes <= SDS_NAMES_BYTES_MAX {
        true => Ok(()),
        false => Err(Status::invalid_argument(format!(
            "{field}: {count} names of {bytes} bytes are asked for on this stream, the limit is {SDS_NAMES_MAX} of \
             {SDS_NAMES_BYTES_MAX}; use another stream"
        ))),
    }
}

/// The validator that a node's metadata chooses; none when it chooses none.
pub(super) fn validator_of(node: &Node) -> Result<Option<Validator>, Status> {
    let fields = node.metadata.as_ref().map(|metadata| &metadata.fields);
    let kind = |key: &str| fields.and_then(|fields| fields.get(key)?.kind.as_ref());
    if let Some(kind) = kind(VALIDATOR_KEY) {
        let chosen = match kind {
            Kind::StringValue(text) => Validator::parse(text).ok(),
            _ => None,
        };
        // What the client wrote is not repeated: a status travels in a header.
        return chosen.map(Some).ok_or_else(|| {
            Status::invalid_argument(format!(
                "node.metadata.{VALIDATOR_KEY}: is none of the validators; use {:?}",
                Validator::ALL.map(Validator::name)
            ))
        });
    }
    let plain = match kind(NO_SPIFFE_KEY) {
        Some(Kind::BoolValue(plain)) => *plain,
        Some(Kind::StringValue(text)) => text == "true",
        _ => false,
    };
    Ok(plain.then_some(Validator::Plain))
}

/// Whether this name can stand for nothing but a bundle: identities are minted when somebody asks for something else.
pub(super) fn is_bundle(name: &str, settings: &Sds) -> bool {
    [settings.bundle_name(), settings.all_bundles_name()].contains(&name)
        || SpiffeId::parse(name).is_ok_and(|id| id.path().is_empty())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use prost_types::{Struct, Value};
    use tonic::Code;

    use super::*;

    fn node(fields: &[(&str, Kind)]) -> Node {
        let fields: BTreeMap<String, Value> = fields
            .iter()
            .map(|(key, kind)| {
                (
                    (*key).to_owned(),
                    Value {
                        kind: Some(kind.clone()),
                    },
                )
            })
            .collect();
        Node {
            metadata: Some(Struct { fields }),
            ..Node::default()
        }
    }

    #[test]
    fn the_nodes_metadata_chooses_the_validator() {
        let text = |text: &str| Kind::StringValue(text.to_owned());
        let chosen = |fields: &[(&str, Kind)]| validator_of(&node(fields)).unwrap();
        assert_eq!(validator_of(&Node::default()).unwrap(), None);
        assert_eq!(chosen(&[("other", text("spiffe"))]), None);
        assert_eq!(chosen(&[(VALIDATOR_KEY, text("spiffe"))]), Some(Validator::Spiffe));
        assert_eq!(
            chosen(&[(NO_SPIFFE_KEY, Kind::BoolValue(true))]),
            Some(Validator::Plain)
        );
        assert_eq!(chosen(&[(NO_SPIFFE_KEY, text("true"))]), Some(Validator::Plain));
        assert_eq!(chosen(&[(NO_SPIFFE_KEY, Kind::BoolValue(false))]), None);
        let both = [(NO_SPIFFE_KEY, Kind::BoolValue(true)), (VALIDATOR_KEY, text("spiffe"))];
        assert_eq!(chosen(&both), Some(Validator::Spiffe), "our own word decides");
        for bad in [text("SPIFFE"), Kind::NumberValue(1.0)] {
            let status = validator_of(&node(&[(VALIDATOR_KEY, bad)])).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains("\"plain\", \"spiffe\""), "{status}");
        }
    }

    #[test]
    fn bundles_are_known_by_their_names() {
        let settings = Sds::named("mine", "roots", "all").unwrap();
        for bundle in ["roots", "all", "spiffe://dev.test", "spiffe://other.test"] {
            assert!(is_bundle(bundle, &settings), "{bundle}");
        }
        for other in ["mine", "ROOTCA", "spiffe://dev.test/web", "spiffe://", ""] {
            assert!(!is_bundle(other, &settings), "{other}");
        }
    }

    #[test]
    fn other_types_and_too_much_are_refused_by_field_limit_and_remedy() {
        let whole = |names: Vec<String>, type_url: &str| DiscoveryRequest {
            resource_names: names,
            type_url: type_url.to_owned(),
            ..DiscoveryRequest::default()
        };
        let short = "x".repeat(SDS_NAMES_BYTES_MAX / SDS_NAMES_MAX);
        check_whole(&whole(vec![short; SDS_NAMES_MAX], SECRET_TYPE)).unwrap();
        check_whole(&whole(vec!["x".repeat(SDS_NAME_BYTES_MAX)], "")).unwrap();
        let told = |request| check_whole(&request).unwrap_err().message().to_owned();
        let cluster = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
        assert!(told(whole(Vec::new(), cluster)).contains("type_url"));
        assert!(told(whole(vec!["x".to_owned(); SDS_NAMES_MAX + 1], "")).contains("the limit is 256 of 32768"));
        assert!(told(whole(vec!["x".repeat(SDS_NAME_BYTES_MAX); 17], "")).contains("of 34816 bytes"));
        for bad in ["x".repeat(SDS_NAME_BYTES_MAX + 1), String::new()] {
            assert!(told(whole(vec![bad], "")).contains("1 to 2048 are allowed"));
        }
        let many: HashMap<_, _> = (0..=SDS_NAMES_MAX).map(|at| (at.to_string(), String::new())).collect();
        let delta = DeltaDiscoveryRequest {
            initial_resource_versions: many,
            ..DeltaDiscoveryRequest::default()
        };
        let told = |request: &DeltaDiscoveryRequest, after: &[String]| check_delta(request, after.iter()).unwrap_err();
        assert!(told(&delta, &[]).message().contains("initial_resource_versions"));
        let after = vec!["x".to_owned(); SDS_NAMES_MAX + 1];
        assert!(
            told(&DeltaDiscoveryRequest::default(), &after)
                .message()
                .contains("use another stream")
        );
    }
}
