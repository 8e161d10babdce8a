//! The one table that says which role may call which RPC. What it does not allow is refused, before any handler runs.

use crate::peer::Peer;

/// What a caller is, by its transport alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// TLS without a client certificate, or with one that is no agent's.
    Anonymous,
    /// TLS with a verified agent certificate, whose standing the handler checks at every message.
    Agent,
    /// The admin socket, with accepted peer credentials.
    Admin,
}

const ANYBODY: &[Role] = &[Role::Anonymous, Role::Agent, Role::Admin];
const ANONYMOUS: &[Role] = &[Role::Anonymous];
const AGENT: &[Role] = &[Role::Agent];
const ADMIN: &[Role] = &[Role::Admin];
const VERIFIERS: &[Role] = &[Role::Anonymous, Role::Agent, Role::Admin];

/// One row: the RPC's HTTP/2 path and the roles that may call it.
pub type Row = (&'static str, &'static [Role]);

/// Every RPC this server has. A test holds it against the descriptors, so that a new RPC without a row is noticed.
pub const TABLE: &[Row] = &[
    ("/grpc.health.v1.Health/Check", ANYBODY),
    ("/grpc.health.v1.Health/Watch", ADMIN),
    // A list is signed and holds serials only.
    ("/mintage.v1.Crls/Watch", VERIFIERS),
    ("/mintage.v1.Ledger/Checkpoint", ADMIN),
    ("/mintage.v1.Ledger/GetRecord", ADMIN),
    ("/mintage.v1.Ledger/Proof", ADMIN),
    ("/mintage.v1.Ledger/Records", ADMIN),
    ("/mintage.v1.Ledger/Retain", ADMIN),
    ("/mintage.v1.Ledger/Roll", ADMIN),
    ("/mintage.v1.Ledger/Search", ADMIN),
    ("/mintage.v1.Ledger/Shards", ADMIN),
    // The token or the last key is the credential; an agent that has a certificate has no business here.
    ("/mintage.v1.Node/Attest", ANONYMOUS),
    // Only what was issued to the caller itself; the handler looks at the record.
    ("/mintage.v1.Node/ProveReceipt", AGENT),
    ("/mintage.v1.Node/Rejoin", ANONYMOUS),
    ("/mintage.v1.Node/Sync", AGENT),
    ("/mintage.v1.Registry/ApplyEntries", ADMIN),
    ("/mintage.v1.Registry/BanAgent", ADMIN),
    ("/mintage.v1.Registry/CaStatus", ADMIN),
    ("/mintage.v1.Registry/CreateToken", ADMIN),
    ("/mintage.v1.Registry/DeleteEntry", ADMIN),
    ("/mintage.v1.Registry/DeleteToken", ADMIN),
    ("/mintage.v1.Registry/EvictAgent", ADMIN),
    ("/mintage.v1.Registry/ExplainEntries", ADMIN),
    ("/mintage.v1.Registry/ListAgents", ADMIN),
    ("/mintage.v1.Registry/ListEntries", ADMIN),
    ("/mintage.v1.Registry/ListTokens", ADMIN),
    ("/mintage.v1.Registry/RenewAgent", ADMIN),
    ("/mintage.v1.Registry/ShowAgent", ADMIN),
    ("/mintage.v1.Registry/ShowEntry", ADMIN),
    ("/mintage.v1.Revocation/ExportRevocations", ADMIN),
    ("/mintage.v1.Revocation/FindFingerprints", ADMIN),
    ("/mintage.v1.Revocation/ListRevocations", ADMIN),
    ("/mintage.v1.Revocation/RevocationStatus", ADMIN),
    ("/mintage.v1.Revocation/Revoke", ADMIN),
    // The set is signed and holds serials only: whoever verifies may have it.
    ("/mintage.v1.Revocation/Snapshot", VERIFIERS),
    ("/mintage.v1.Revocation/Watch", VERIFIERS),
    ("/mintage.v1.TrustDomain/Bundle", ANYBODY),
    ("/mintage.v1.TrustDomain/ListFederated", ADMIN),
    ("/mintage.v1.TrustDomain/RemoveFederated", ADMIN),
    ("/mintage.v1.TrustDomain/SetFederated", ADMIN),
];

/// The roles that may call `path`, or `None` for an RPC this server does not have.
pub fn allowed(path: &str) -> Option<&'static [Role]> {
    TABLE.iter().find(|(row, _)| *row == path).map(|(_, roles)| *roles)
}

/// The role of a connection's other end.
pub(crate) fn role_of(peer: &Peer) -> Role {
    match peer {
        Peer::Admin(_) => Role::Admin,
        Peer::Tls(tls) if tls.agent_session().is_some() => Role::Agent,
        Peer::Tls(_) => Role::Anonymous,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Services of the agent's own socket, which this server does not have.
    const NOT_HERE: [&str; 5] = [
        "/envoy.service.auth.v3.Authorization/",
        "/envoy.service.secret.v3.SecretDiscoveryService/",
        "/mintage.v1.AgentLocal/",
        "/mintage.v1.RevocationLookup/",
        "/SpiffeWorkloadAPI/",
    ];

    #[test]
    fn every_rpc_has_a_row_and_every_row_an_rpc() {
        let known: Vec<String> = mintage_proto::every_rpc()
            .iter()
            .map(mintage_proto::Rpc::path)
            .filter(|path| !NOT_HERE.iter().any(|prefix| path.starts_with(prefix)))
            .collect();
        for path in &known {
            assert!(allowed(path).is_some(), "{path} has no row in the role table");
        }
        for (row, roles) in TABLE {
            assert!(
                known.iter().any(|path| path == row) || row.starts_with("/grpc.health.v1."),
                "{row} is no RPC"
            );
            assert!(!roles.is_empty(), "{row} could be called by nobody");
        }
    }

    #[test]
    fn rows_are_unique_and_sorted() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
