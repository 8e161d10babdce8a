//! Where the agent of this node is (SPIFFE Workload Endpoint, section 4), and the metadata that every call of the Workload
//! API carries (section 3).

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{Request, metadata::MetadataValue, transport::Channel};
use tower::service_fn;

use crate::{cli::Context, failure::Failure, limits::SOCKET_PATH_BYTES_MAX};

/// The variable that names the endpoint.
pub(crate) const VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
/// Where Mintage's agent listens unless told otherwise.
const USUAL: &str = "/run/mintage/agent.sock";

/// A Unix socket. TCP is allowed by the standard and refused here: the kernel names no process at its other end, so that none
/// can be attested, and an agent that answers all the same gives a key to whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint(PathBuf);

impl Endpoint {
    /// What the command line says, else what the environment says, else the usual place.
    ///
    /// # Errors
    /// When the environment has no address of a Unix socket.
    pub(crate) fn of(context: &Context) -> Result<Self, Failure> {
        Self::chosen(context.given_socket(), std::env::var(VARIABLE).ok())
    }

    fn chosen(given: Option<&Path>, variable: Option<String>) -> Result<Self, Failure> {
        if let Some(path) = given {
            return Ok(Self(path.to_owned()));
        }
        match variable.filter(|address| !address.is_empty()) {
            Some(address) => Self::parse(&address).map_err(|why| Failure::local(format!("{VARIABLE}: {why}"))),
            None => Ok(Self(USUAL.into())),
        }
    }

    /// Reads an address of the form `unix:///run/mintage/agent.sock`.
    fn parse(address: &str) -> Result<Self, String> {
        let refuse = |why: &str| {
            Err(format!(
                "{address:?} {why}; it has the form unix:///run/mintage/agent.sock"
            ))
        };
        let Some((scheme, rest)) = address.split_once(':') else {
            return refuse("has no scheme");
        };
        if scheme == "tcp" {
            return refuse(
                "is TCP, over which no agent can attest the process that asks: the kernel names none; use its Unix socket",
            );
        }
        if scheme != "unix" {
            return refuse("is no Unix socket");
        }
        // Without an authority, `unix:/path` and `unix:///path` are the same.
        let path = match rest.strip_prefix("//") {
            Some(path) if path.starts_with('/') => path,
            Some(_) => return refuse("names an authority"),
            None => rest,
        };
        if path.contains(['?', '#']) {
            return refuse("has a query or a fragment");
        }
        if path.len() > SOCKET_PATH_BYTES_MAX {
            return refuse(&format!(
                "has a path of {} bytes, where a socket's has at most {SOCKET_PATH_BYTES_MAX}",
                path.len()
            ));
        }
        match path.starts_with('/') && path.len() > 1 && !path.contains('%') {
            true => Ok(Self(path.into())),
            false => refuse("has no absolute path in plain letters"),
        }
    }

    /// What a child's variable says so that it finds the same.
    ///
    /// # Errors
    /// When the path cannot stand in an address.
    pub(crate) fn address(&self) -> Result<String, Failure> {
        let absolute = std::path::absolute(&self.0).map_err(|error| Failure::file(&self.0, error))?;
        let address = format!("unix://{}", absolute.display());
        match Self::parse(&address) {
            Ok(Self(path)) if path == absolute => Ok(address),
            Ok(_) => Err(Failure::file(&self.0, "is no path in plain letters; use another")),
            Err(why) => Err(Failure::local(format!("{VARIABLE}: {why}"))),
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// When no agent answers.
    pub(crate) async fn connect(self) -> Result<Channel, Failure> {
        let Self(path) = self;
        let told = |error: &dyn std::fmt::Display| {
            Failure::Remote(format!(
                "no agent answers on {}: {error}; is mintage-agent running, and is the path right (--socket or {VARIABLE})?",
                path.display()
            ))
        };
        // Asked first by hand: a transport's error says less.
        UnixStream::connect(&path).await.map_err(|error| told(&error))?;
        let socket = path.clone();
        let connector = service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The name is never looked up: the connector knows the socket.
        let endpoint = tonic::transport::Endpoint::from_static("http://agent.sock");
        endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|error| told(&error))
    }
}

/// A request with the header that keeps requests of fooled HTTP clients out.
pub(crate) fn spiffe<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w3_an_address_is_a_unix_socket_with_an_absolute_path_and_nothing_else() {
        for good in ["unix:///run/a.sock", "unix:/run/a.sock"] {
            assert_eq!(Endpoint::parse(good), Ok(Endpoint("/run/a.sock".into())), "{good}");
        }
        for bad in [
            "",
            "/run/a.sock",
            "unix:",
            "unix://",
            "unix:///",
            "unix://host/run/a.sock",
            "unix:run/a.sock",
            "unix:///run/a.sock?x=1",
            "unix:///run/a.sock#x",
            "unix:///run/a%20b.sock",
            "UNIX:///run/a.sock",
            "tcp://127.0.0.1:8000",
            "http://127.0.0.1",
            &format!("unix:///{}", "a".repeat(SOCKET_PATH_BYTES_MAX)),
        ] {
            assert!(
                Endpoint::parse(bad).unwrap_err().contains("unix:///run/mintage"),
                "{bad}"
            );
        }
    }

    #[test]
    fn w3_the_command_line_counts_more_than_the_variable_and_that_more_than_the_usual_place() {
        let variable = || Some("unix:///env".to_owned());
        let of = |given: Option<&str>, variable| Endpoint::chosen(given.map(Path::new), variable).unwrap().0;
        assert_eq!(of(Some("/given"), variable()), Path::new("/given"));
        assert_eq!(of(None, variable()), Path::new("/env"));
        assert_eq!(of(None, Some(String::new())), Path::new(USUAL));
        let wrong = Endpoint::chosen(None, Some("tcp://127.0.0.1:1".to_owned())).unwrap_err();
        let said = wrong.to_string();
        assert!(said.contains(VARIABLE) && wrong.code() == 1, "{said}");
        assert!(
            said.contains("no agent can attest") && said.contains("Unix socket"),
            "{said}"
        );
    }

    #[test]
    fn w3_a_child_is_told_the_same_place() {
        let address = |path: &str| Endpoint(path.into()).address();
        assert_eq!(address("/run/a.sock").unwrap(), "unix:///run/a.sock");
        let here = std::env::current_dir().unwrap().join("a.sock");
        assert_eq!(address("a.sock").unwrap(), format!("unix://{}", here.display()));
        for bad in ["/run/a b%20.sock", "/run/a?b", "/run/a#b"] {
            assert_eq!(address(bad).unwrap_err().code(), 1, "{bad}");
        }
    }

    #[test]
    fn w2_every_request_carries_the_header_once() {
        let request = spiffe(());
        let values: Vec<_> = request.metadata().get_all("workload.spiffe.io").iter().collect();
        assert_eq!(values, ["true"]);
    }
}
