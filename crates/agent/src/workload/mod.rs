//! The Unix socket: the SPIFFE Workload API, the agent's own verbs beside it, and the standard health service.

mod api;
mod bind;
mod caller;
mod gate;
mod jwt;
mod local;
mod serve;
mod view;

pub(crate) use serve::{SocketServer, serve};
pub(crate) use view::{Want, WhoAmI, WorkloadSvid, WorkloadView};
