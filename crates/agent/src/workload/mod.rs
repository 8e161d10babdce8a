//! The Unix socket: the SPIFFE Workload API, Envoy's SDS, the agent's own verbs beside them, look-ups of certificates (our
//! own, Envoy's, and over HTTP/1.1), and the standard services for health and reflection.

mod api;
mod attesting;
mod authority;
mod bind;
mod caller;
mod checks;
mod explain;
mod ext_authz;
mod flood;
mod gate;
mod health;
mod http1;
mod jwt;
mod local;
mod look;
mod lookup;
mod pieces;
mod places;
mod reflection;
mod sds;
mod serve;
mod spoken;
mod view;

pub(crate) use serve::{SocketServer, serve};
pub(crate) use view::{Given, Trusted, Want, WhoAmI, WorkloadSvid, WorkloadView};
