//! rustls handshakes in memory: two state machines and their bytes, no socket and no thread.

use std::{io::Read, sync::Arc};

use rustls::{ClientConfig, ClientConnection, Error, ServerConfig, ServerConnection};

/// What became of a handshake, seen from both ends.
pub(crate) struct Outcome {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
    pub(crate) client_error: Option<Error>,
    pub(crate) server_error: Option<Error>,
}

impl Outcome {
    pub(crate) fn succeeded(&self) -> bool {
        self.client_error.is_none()
            && self.server_error.is_none()
            && !self.client.is_handshaking()
            && !self.server.is_handshaking()
    }

    /// The error of the end that refused, and the alert the other one got.
    pub(crate) fn refusal_by_server(&self) -> (&Error, &Error) {
        match (&self.server_error, &self.client_error) {
            (Some(ours), Some(alert)) => (ours, alert),
            other => panic!("the server did not refuse: {other:?}"),
        }
    }

    pub(crate) fn refusal_by_client(&self) -> (&Error, &Error) {
        match (&self.client_error, &self.server_error) {
            (Some(ours), Some(alert)) => (ours, alert),
            other => panic!("the client did not refuse: {other:?}"),
        }
    }
}

/// Runs a handshake to its end, tickets and alerts included.
pub(crate) fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Outcome {
    let name = "peer.test".try_into().unwrap();
    let mut outcome = Outcome {
        client: ClientConnection::new(client.clone(), name).unwrap(),
        server: ServerConnection::new(server.clone()).unwrap(),
        client_error: None,
        server_error: None,
    };
    // Ten rounds are more than any handshake takes; the last ones carry tickets and alerts.
    for _ in 0..10 {
        let mut bytes = Vec::new();
        while outcome.client.wants_write() {
            outcome.client.write_tls(&mut bytes).unwrap();
        }
        if outcome.server_error.is_none() {
            outcome.server_error = feed(&mut outcome.server, &bytes).err();
        }
        let mut bytes = Vec::new();
        while outcome.server.wants_write() {
            outcome.server.write_tls(&mut bytes).unwrap();
        }
        if outcome.client_error.is_none() {
            outcome.client_error = feed(&mut outcome.client, &bytes).err();
        }
    }
    outcome
}

fn feed<T>(connection: &mut rustls::ConnectionCommon<T>, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        connection.read_tls(&mut bytes).unwrap();
        connection.process_new_packets()?;
        let mut plain = [0; 64];
        while matches!(connection.reader().read(&mut plain), Ok(read) if read > 0) {}
    }
    Ok(())
}
