//! The one table that says who may call which RPC on the agent's socket. What it does not allow is refused, before any
//! handler runs.

/// What a caller is, by the kernel's word about its process alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Any process of the node. What it gets is decided by what it proves, in the handler.
    Workload,
    /// A process of root or of the agent's own user.
    Operator,
}

const ANYBODY: &[Role] = &[Role::Workload, Role::Operator];
const OPERATOR: &[Role] = &[Role::Operator];

/// One row: the RPC's HTTP/2 path and the roles that may call it.
pub type Row = (&'static str, &'static [Role]);

/// Every RPC of the socket. A test holds it against the descriptors, so that a new RPC without a row is noticed.
pub const TABLE: &[Row] = &[
    ("/SpiffeWorkloadAPI/FetchJWTBundles", ANYBODY),
    ("/SpiffeWorkloadAPI/FetchJWTSVID", ANYBODY),
    ("/SpiffeWorkloadAPI/FetchX509Bundles", ANYBODY),
    ("/SpiffeWorkloadAPI/FetchX509SVID", ANYBODY),
    ("/SpiffeWorkloadAPI/ValidateJWTSVID", ANYBODY),
    // Public information; Envoy's name for the question is on the wire.
    ("/envoy.service.auth.v3.Authorization/Check", ANYBODY),
    // Envoy's SDS: what the Workload API gives to the same caller, in another form.
    ("/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets", ANYBODY),
    ("/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets", ANYBODY),
    ("/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets", ANYBODY),
    ("/grpc.health.v1.Health/Check", ANYBODY),
    ("/grpc.health.v1.Health/Watch", ANYBODY),
    // What the socket offers is no secret (SPIFFE Workload API, section 4).
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", ANYBODY),
    // Of other users' processes the handler tells operators alone.
    ("/mintage.v1.AgentLocal/Explain", ANYBODY),
    // Only what chains to the bundle is taken, whoever brings it.
    ("/mintage.v1.AgentLocal/ReportSeen", ANYBODY),
    // It names every folder and identity of the node.
    ("/mintage.v1.AgentLocal/Status", OPERATOR),
    ("/mintage.v1.AgentLocal/WhoAmI", ANYBODY),
    ("/mintage.v1.RevocationLookup/Check", ANYBODY),
];

/// RPCs that stay open as long as their caller likes, and that no handler of ours counts: they count among its streams.
const OPEN_ENDED: [&str; 2] = [
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
];

/// Whether a call of `path` takes the place of a stream from before its handler runs until its answer has ended.
pub(crate) fn is_open_ended(path: &str) -> bool {
    OPEN_ENDED.contains(&path)
}

/// The roles that may call `path`, or `None` for an RPC that the socket does not have.
pub fn allowed(path: &str) -> Option<&'static [Role]> {
    TABLE.iter().find(|(row, _)| *row == path).map(|(_, roles)| *roles)
}

/// The role of a process of user `uid`, where the agent's own user is `own`.
pub fn role_of(uid: u32, own: u32) -> Role {
    match uid == 0 || uid == own {
        true => Role::Operator,
        false => Role::Workload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The services of the socket among all that the wire knows.
    const HERE: [&str; 5] = [
        "/envoy.service.auth.v3.Authorization/",
        "/envoy.service.secret.v3.SecretDiscoveryService/",
        "/mintage.v1.AgentLocal/",
        "/mintage.v1.RevocationLookup/",
        "/SpiffeWorkloadAPI/",
    ];

    #[test]
    fn every_rpc_of_the_socket_has_a_row_and_every_row_an_rpc() {
        let known: Vec<String> = mintage_proto::every_rpc()
            .iter()
            .map(mintage_proto::Rpc::path)
            .filter(|path| HERE.iter().any(|prefix| path.starts_with(prefix)))
            .collect();
        assert!(known.len() >= 10, "{known:?}");
        for path in &known {
            assert!(allowed(path).is_some(), "{path} has no row in the role table");
        }
        for (row, roles) in TABLE {
            assert!(
                known.iter().any(|path| path == row)
                    || ["/grpc.health.v1.", "/grpc.reflection.v1."]
                        .iter()
                        .any(|prefix| row.starts_with(prefix)),
                "{row} is no RPC of the socket"
            );
            assert!(!roles.is_empty(), "{row} could be called by nobody");
        }
    }

    #[test]
    fn rows_are_unique_and_sorted() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn only_root_and_the_agents_own_user_are_operators() {
        assert_eq!(role_of(0, 990), Role::Operator);
        assert_eq!(role_of(990, 990), Role::Operator);
        assert_eq!(role_of(1000, 990), Role::Workload);
        assert_eq!(role_of(1000, 0), Role::Workload);
    }
}
