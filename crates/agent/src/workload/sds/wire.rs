//! The two protocols as one stream sees them: their requests, their state, and the responses made of what is owed.

use bytes::Bytes;
use mintage_proto::sds::{
    Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Node, Resource,
};
use tonic::Status;

use super::{
    ask::{SECRET_TYPE, check_delta, check_whole},
    delta::Delta,
    offer::Offer,
    state::{Catalogue as _, Heard, Owed, Reply},
    whole::Whole,
};
use crate::workload::pieces::Pieces;

/// One kind of stream.
pub(super) trait Protocol: Default + Send + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;

    /// The client's word about itself, in the first request at least.
    fn node(request: &Self::Request) -> Option<&Node>;
    /// Refuses what is beyond a limit.
    fn check(&self, request: &Self::Request) -> Result<(), Status>;
    fn hear(&mut self, request: &Self::Request) -> Heard;
    /// What is asked for by name.
    fn names(&self) -> Vec<String>;
    fn everything(&self) -> bool;
    fn owed(&mut self, offer: &Offer<'_>) -> Owed;
    /// Takes back what the client has, where the protocol can say so.
    fn withdraw(&mut self) -> Option<Reply>;
    /// Of what is owed; `offer` is none when nothing is to be sent.
    fn response(reply: Reply, offer: Option<&Offer<'_>>) -> Self::Response;
    /// The same as octets, with what streams share not copied.
    fn pieces(response: Self::Response) -> Pieces;
}

/// The field with the secrets, in both kinds of response.
const RESOURCES: u32 = 2;
/// The field with the secret, in a resource, and with its octets, in an `Any`.
const CONTENT: u32 = 2;

fn any_pieces(any: Any) -> Pieces {
    let kind = Any {
        type_url: any.type_url,
        value: Bytes::new(),
    };
    Pieces::of(&kind).and(Pieces::from(any.value).within(CONTENT))
}

fn resource_pieces(mut resource: Resource) -> Pieces {
    let any = resource.resource.take();
    let about = Pieces::of(&resource);
    match any {
        Some(any) => about.and(any_pieces(any).within(CONTENT)),
        None => about,
    }
}

impl Protocol for Whole {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn node(request: &DiscoveryRequest) -> Option<&Node> {
        request.node.as_ref()
    }

    fn check(&self, request: &DiscoveryRequest) -> Result<(), Status> {
        check_whole(request)
    }

    fn hear(&mut self, request: &DiscoveryRequest) -> Heard {
        Self::hear(self, request)
    }

    fn names(&self) -> Vec<String> {
        Self::names(self).map(str::to_owned).collect()
    }

    fn everything(&self) -> bool {
        Self::everything(self)
    }

    fn owed(&mut self, offer: &Offer<'_>) -> Owed {
        Self::owed(self, offer)
    }

    /// A response without a resource says nothing about it; the stream's end does.
    fn withdraw(&mut self) -> Option<Reply> {
        None
    }

    fn response(reply: Reply, offer: Option<&Offer<'_>>) -> DiscoveryResponse {
        let secrets = reply.send.iter().filter_map(|name| offer?.secret(name));
        DiscoveryResponse {
            version_info: reply.version,
            resources: secrets.collect(),
            type_url: SECRET_TYPE.to_owned(),
            nonce: reply.nonce,
        }
    }

    fn pieces(mut response: DiscoveryResponse) -> Pieces {
        let secrets = std::mem::take(&mut response.resources).into_iter().map(any_pieces);
        secrets.fold(Pieces::of(&response), |all, secret| all.and(secret.within(RESOURCES)))
    }
}

impl Protocol for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn node(request: &DeltaDiscoveryRequest) -> Option<&Node> {
        request.node.as_ref()
    }

    fn check(&self, request: &DeltaDiscoveryRequest) -> Result<(), Status> {
        check_delta(request, self.names_after(request))
    }

    fn hear(&mut self, request: &DeltaDiscoveryRequest) -> Heard {
        Self::hear(self, request)
    }

    fn names(&self) -> Vec<String> {
        Self::names(self).map(str::to_owned).collect()
    }

    fn everything(&self) -> bool {
        Self::everything(self)
    }

    fn owed(&mut self, offer: &Offer<'_>) -> Owed {
        Self::owed(self, offer)
    }

    fn withdraw(&mut self) -> Option<Reply> {
        Self::withdraw(self)
    }

    fn response(reply: Reply, offer: Option<&Offer<'_>>) -> DeltaDiscoveryResponse {
        let resource = |name: &String| {
            let offer = offer?;
            Some(Resource {
                version: offer.version(name)?,
                resource: Some(offer.secret(name)?),
                name: name.clone(),
            })
        };
        DeltaDiscoveryResponse {
            system_version_info: reply.version,
            resources: reply.send.iter().filter_map(resource).collect(),
            type_url: SECRET_TYPE.to_owned(),
            nonce: reply.nonce,
            removed_resources: reply.removed,
        }
    }

    fn pieces(mut response: DeltaDiscoveryResponse) -> Pieces {
        let resources = std::mem::take(&mut response.resources).into_iter().map(resource_pieces);
        resources.fold(Pieces::of(&response), |all, resource| {
            all.and(resource.within(RESOURCES))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use prost::Message as _;

    use super::*;
    use crate::limits::SDS_NAMES_MAX;

    #[test]
    fn pieces_are_the_response_and_share_the_secret() {
        let value = Bytes::from(vec![9; 10_000]);
        let any = |value: &Bytes| Any {
            type_url: SECRET_TYPE.to_owned(),
            value: value.clone(),
        };
        let whole = DiscoveryResponse {
            version_info: "v".to_owned(),
            resources: vec![any(&value), any(&Bytes::from_static(b"x"))],
            type_url: SECRET_TYPE.to_owned(),
            nonce: "1".to_owned(),
        };
        let resource = |name: &str, resource| Resource {
            version: "v".to_owned(),
            resource,
            name: name.to_owned(),
        };
        let delta = DeltaDiscoveryResponse {
            system_version_info: "s".to_owned(),
            resources: vec![resource("a", Some(any(&value))), resource("b", None)],
            type_url: SECRET_TYPE.to_owned(),
            nonce: "2".to_owned(),
            removed_resources: vec!["c".to_owned()],
        };
        let pieces = Whole::pieces(whole.clone());
        assert!(DiscoveryResponse::decode(&pieces.joined()[..]).unwrap() == whole);
        assert!(pieces.places().contains(&value.as_ptr()), "not copied");
        let pieces = Delta::pieces(delta.clone());
        assert!(DeltaDiscoveryResponse::decode(&pieces.joined()[..]).unwrap() == delta);
        assert!(pieces.places().contains(&value.as_ptr()), "not copied");
    }

    /// A caller who has two things.
    struct Two;

    impl crate::workload::sds::state::Catalogue for Two {
        fn version(&self, name: &str) -> Option<String> {
            ["a", "b"].contains(&name).then(|| "1".to_owned())
        }

        fn everything(&self) -> Vec<String> {
            vec!["a".to_owned(), "b".to_owned()]
        }
    }

    fn word() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => "[abc*]".prop_map(|text| text),
            2 => (0..3u32).prop_map(|number| number.to_string()),
            1 => any::<String>(),
            1 => Just("x".repeat(4096)),
        ]
    }

    fn words() -> impl Strategy<Value = Vec<String>> {
        prop_oneof![8 => vec(word(), 0..4), 1 => vec("[a-z]{1,3}", 200..300)]
    }

    proptest! {
        /// Whatever a client sends in whatever order, a stream remembers no more than its limit and owes nothing twice.
        #[test]
        fn hostile_requests_cost_no_more_than_the_limit(
            requests in vec((words(), words(), words(), word(), any::<bool>()), 1..8)
        ) {
            let (mut whole, mut delta) = (Whole::default(), Delta::default());
            for (some, others, brought, nonce, refuses) in requests {
                let problem = refuses.then(mintage_proto::sds::Problem::default);
                let request = DiscoveryRequest {
                    resource_names: some.clone(),
                    response_nonce: nonce.clone(),
                    error_detail: problem.clone(),
                    ..DiscoveryRequest::default()
                };
                if Protocol::check(&whole, &request).is_ok() {
                    Protocol::hear(&mut whole, &request);
                    whole.owed(&Two);
                    prop_assert_eq!(whole.owed(&Two) == Owed::Nothing, whole.names().count() == 0
                        || whole.everything() || whole.names().any(|name| ["a", "b"].contains(&name)));
                }
                let request = DeltaDiscoveryRequest {
                    resource_names_subscribe: some,
                    resource_names_unsubscribe: others,
                    initial_resource_versions: brought.into_iter().map(|name| (name, nonce.clone())).collect(),
                    response_nonce: nonce,
                    error_detail: problem,
                    ..DeltaDiscoveryRequest::default()
                };
                if Protocol::check(&delta, &request).is_ok() {
                    Protocol::hear(&mut delta, &request);
                    delta.owed(&Two);
                    prop_assert_eq!(delta.owed(&Two), Owed::Nothing);
                }
                prop_assert!(whole.names().count() <= SDS_NAMES_MAX && delta.names().count() <= SDS_NAMES_MAX);
            }
        }
    }
}
