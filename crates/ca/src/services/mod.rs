//! The gRPC services. Each is a thin edge: it reads a request, calls one thing of the core, and writes the reply.

pub(crate) mod crls;
pub(crate) mod jwt;
pub(crate) mod ledger;
pub(crate) mod node;
pub(crate) mod page;
pub(crate) mod receipts;
pub(crate) mod records;
pub(crate) mod registry;
pub(crate) mod revocation;
pub(crate) mod shards;
pub(crate) mod sync;
pub(crate) mod trust;
