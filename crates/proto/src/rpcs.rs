//! The list of every RPC, read from the descriptors that are generated with the code.

use prost::Message as _;
use prost_types::FileDescriptorSet;

use crate::DESCRIPTORS;

/// One RPC.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rpc {
    /// Full service name, such as `mintage.v1.Node`.
    pub service: String,
    /// Method name, such as `Sync`.
    pub method: String,
}

impl Rpc {
    /// The HTTP/2 path, such as `/mintage.v1.Node/Sync`.
    pub fn path(&self) -> String {
        format!("/{}/{}", self.service, self.method)
    }
}

/// Every RPC of every generated service, sorted. The role table is held against this list, so that a new RPC without a
/// row is noticed.
pub fn every_rpc() -> Vec<Rpc> {
    // The bytes are generated together with the code; a set that does not decode yields no RPC, which the tests notice.
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default();
    let mut rpcs: Vec<Rpc> = set
        .file
        .iter()
        .flat_map(|file| file.service.iter().map(move |service| (file.package(), service)))
        .flat_map(|(package, service)| {
            let name = match package {
                "" => service.name().to_owned(),
                package => format!("{package}.{}", service.name()),
            };
            service.method.iter().map(move |method| Rpc {
                service: name.clone(),
                method: method.name().to_owned(),
            })
        })
        .collect();
    rpcs.sort();
    rpcs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_known_rpcs() {
        let paths: Vec<_> = every_rpc().iter().map(Rpc::path).collect();
        for known in [
            "/mintage.v1.Node/Sync",
            "/mintage.v1.Registry/CreateToken",
            "/SpiffeWorkloadAPI/FetchX509SVID",
        ] {
            assert!(
                paths.iter().any(|path| path == known),
                "{known} is missing from {paths:?}"
            );
        }
    }
}
